"""Mean and maximum pooling, against loops over the rows of each bag."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.pooling import MaxPool, MeanPool

POOLS = pytest.mark.parametrize("pool", [MeanPool, MaxPool])


def made(pool: type, bags: Bags, **settings):
    torch.manual_seed(0)
    return pool(bags.rows.mean(0), bags.rows.std(0), outputs=3, hidden=8, **settings).eval()


def by_loops(pool: type, model, bags: Bags) -> np.ndarray:
    """W z with z the mean or the maximum of ReLU(E x) over the rows x of a bag, standardised."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    rows = bags.rows.double().numpy()
    rows = (rows - bags.rows.mean(0).double().numpy()) / bags.rows.std(0).double().numpy()
    scores = []
    for start, end in zip(bags.offsets[:-1].tolist(), bags.offsets[1:].tolist(), strict=True):
        embedded = [np.maximum(weights["embed.0.weight"] @ x + weights["embed.0.bias"], 0.0) for x in rows[start:end]]
        z = sum(embedded) / len(embedded) if pool is MeanPool else np.max(embedded, axis=0)
        scores.append(weights["classify.weight"] @ z + weights["classify.bias"])
    return np.array(scores)


@POOLS
def test_scores_equal_loops(pool, bags) -> None:
    model = made(pool, bags)
    with torch.no_grad():
        output = model(bags)
    np.testing.assert_allclose(output.scores.numpy(), by_loops(pool, model, bags), atol=1e-5)
    assert output.attention is None


@POOLS
def test_a_bag_does_not_depend_on_the_others(pool, bags) -> None:
    model = made(pool, bags)
    with torch.no_grad():
        together, alone = model(bags).scores, model(bags.take(np.array([4]))).scores
    torch.testing.assert_close(alone, together[4:5])


@POOLS
def test_repeated_rows_change_nothing(pool, bags) -> None:
    model = made(pool, bags)
    twice = Bags(bags.rows.repeat_interleave(2, 0), bags.offsets * 2)
    with torch.no_grad():
        torch.testing.assert_close(model(twice).scores, model(bags).scores)


@POOLS
def test_dropout_in_training_alone(pool, bags) -> None:
    model = made(pool, bags, dropout=0.5)
    evaluated = model(bags).scores
    assert torch.equal(model(bags).scores, evaluated)
    assert not torch.equal(model.train()(bags).scores, evaluated)
