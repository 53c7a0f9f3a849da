from __future__ import annotations

import math

import torch
from torch import nn

from sgcl_cli.probe.models.best_weights import BestWeights


def after(losses: list[float | None]) -> tuple[BestWeights, float]:
    """A training whose one weight is the number of the epoch, and that weight once the best epoch is restored."""
    training = BestWeights(nn.Linear(1, 1, bias=False))
    for epoch, loss in enumerate(losses, 1):
        with torch.no_grad():
            training.model.weight.fill_(epoch)
        training.rate_epoch(epoch, loss)
    training.restore_best()
    return training, training.model.weight.item()


def test_the_epoch_with_the_lowest_loss_is_restored_and_the_first_of_equal_ones():
    training, weight = after([3.0, 1.0, 2.0, 1.0])
    assert (training.best_epoch, training.best_loss, weight) == (2, 1.0, 2.0)


def test_without_losses_the_last_epoch_stays():
    training, weight = after([None, None, None])
    assert (training.best_epoch, training.best_loss, weight) == (3, math.inf, 3.0)


def test_an_undefined_loss_is_never_the_best():
    training, weight = after([math.nan, 2.0, math.nan])
    assert (training.best_epoch, training.best_loss, weight) == (2, 2.0, 2.0)
    training, weight = after([math.nan, math.nan])
    assert (training.best_epoch, training.best_loss, weight) == (0, math.inf, 2.0)


def test_batch_norm_statistics_are_restored_with_the_weights():
    training = BestWeights(nn.BatchNorm1d(2))
    training.rate_epoch(1, 0.5)
    training.model(torch.randn(8, 2) + 5)
    training.rate_epoch(2, 0.7)
    training.restore_best()
    assert torch.equal(training.model.running_mean, torch.zeros(2))
