from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.engine.encode import centre_crop
from sgcl_cli.engine.finetune import Finetuning, Patches
from sgcl_cli.engine.fit import Position, fit
from sgcl_cli.engine.loader import Called
from sgcl_cli.engine.runtime import Runtime, start
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError
from sgcl_cli.probe.models.targets import Classes

SIDE, INPUT = 10, 8
CPU = Runtime(torch.device("cpu"), None)
CARD = EncoderCard("tiny", 3, INPUT, MEAN, STD, None, SIDE)


class Brightness(nn.Module):
    """Scores of two classes from the mean of each channel; it remembers the images that it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.trained: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.trained.append(x.detach().clone())
        return self.head(x.mean((2, 3)))


def read(i: int) -> np.ndarray:
    """Odd patches are bright."""
    return np.random.default_rng(i).integers(0, 100, (SIDE, SIDE, 3)).astype(np.uint8) + np.uint8(120 * (i % 2))


SOURCE = Called(read, SIDE)


def patches(batch: int = 8, source: Called = SOURCE) -> Patches:
    return Patches(source, CARD, CPU, batch=batch, workers=0)


TARGET = Classes(torch.arange(400) % 2, 2)


def test_scores_are_of_the_centre_crop_in_evaluation_mode() -> None:
    model = Brightness()
    found = patches().scores(model, np.arange(20))
    shown = torch.from_numpy(np.stack([read(i) for i in range(20)]))
    images = centre_crop(shown, INPUT).permute(0, 3, 1, 2).float() / 255
    normal = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(found, model.head(normal.mean((2, 3))).detach().double(), atol=1e-5, rtol=0)
    assert not model.trained


def test_views_have_the_inputs_size_and_differ_by_epoch_but_not_by_batch() -> None:
    def first(batch: int, epoch: int) -> Tensor:
        order = [np.arange(8)[at : at + batch] for at in range(0, 8, batch)]
        return torch.cat([fed.views.whole for fed in patches(batch).views(order, 3, epoch)])

    assert first(8, 0).shape == (8, 3, INPUT, INPUT)
    torch.testing.assert_close(first(8, 0), first(4, 0))
    assert (first(8, 0) - first(8, 1)).abs().max() > 0.1


def test_the_weights_of_the_best_epoch_come_back() -> None:
    torch.manual_seed(0)
    work = Finetuning(Brightness(), patches(), TARGET, np.arange(40), np.arange(40, 60), seed=0)
    kept: list[tuple[float, Tensor]] = []
    look = work.end_epoch

    def watched(position: Position) -> bool:
        stop = look(position)
        truth = TARGET.classes[40:60]
        loss = nn.functional.cross_entropy(patches().scores(work.model, np.arange(40, 60)), truth)
        kept.append((float(loss), work.model.head.weight.detach().clone()))
        return stop

    work.end_epoch = watched  # type: ignore[method-assign]
    rates = iter([0.5] * 15 + [-0.5] * 15)  # the last three epochs climb
    fit(work, torch.optim.SGD(work.model.parameters(), lr=0.1), epochs=6, lr=lambda step: next(rates))
    losses = [loss for loss, _ in kept]
    assert work.best_epoch == 1 + int(np.argmin(losses)) < 6
    assert work.best_loss == pytest.approx(min(losses))
    work.restore_best()
    torch.testing.assert_close(work.model.head.weight, kept[work.best_epoch - 1][1])
    assert (work.predict(np.arange(60, 80)).argmax(1) == np.arange(60, 80) % 2).mean() > 0.9


@pytest.mark.parametrize(("train", "size", "steps"), [(2, 2, 1), (20, 8, 2), (320, 20, 16), (4000, 64, 62)])
def test_batches_are_small_where_patches_are_few(train: int, size: int, steps: int) -> None:
    work = Finetuning(Brightness(), patches(64), TARGET, np.arange(train), np.arange(0), seed=0)
    assert (work.batch_size, work.steps) == (size, steps)


def test_without_validation_the_last_epoch_stays() -> None:
    work = Finetuning(Brightness(), patches(), TARGET, np.arange(10), np.arange(0), seed=0)
    fit(work, torch.optim.SGD(work.model.parameters(), lr=0.1), epochs=3, lr=lambda step: 0.1)
    weight = work.model.head.weight.detach().clone()
    work.restore_best()
    assert work.best_epoch == 3 and torch.equal(weight, work.model.head.weight)
    assert work.predict(np.arange(0)).shape == (0, 2)


def test_a_patch_that_cannot_be_read_stops_it() -> None:
    def broken(i: int) -> np.ndarray:
        raise ArtefactError(f"patch {i} of {Path('a.h5')} is not a readable JPEG", "make it again")

    source = patches(source=Called(broken, SIDE))
    with pytest.raises(ArtefactError, match="patch 0"):
        source.scores(Brightness(), np.arange(2))
    with pytest.raises(ArtefactError, match="patch 1"):
        next(source.views([np.array([1])], 0, 0))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_learns_on_a_gpu() -> None:
    runtime = start("cuda", "auto", None)
    shown = Patches(SOURCE, CARD, runtime, batch=8, workers=2)
    target = Classes(TARGET.classes.cuda(), 2)
    work = Finetuning(Brightness(), shown, target, np.arange(80), np.arange(80, 100), seed=0)
    fit(work, torch.optim.SGD(work.model.parameters(), lr=0.5), epochs=4, lr=lambda step: 0.5)
    work.restore_best()
    assert (work.predict(np.arange(100, 140)).argmax(1) == np.arange(100, 140) % 2).mean() > 0.9
