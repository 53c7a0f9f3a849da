from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import ViewOptions
from sgcl_cli.engine.feed import Fed, Feed
from sgcl_cli.engine.loader import Failed, Loader, StoredPatches, epoch_order, in_turn
from sgcl_cli.engine.runtime import Runtime, start
from sgcl_cli.engine.views import Views, ViewSettings, make_views

Make = Callable[..., Path]
SETTINGS = ViewSettings.of(ViewOptions(view=28, corner=12), 32)


def _feed(folder: Path, runtime: Runtime, workers: int = 0) -> tuple[Feed, PatchIndex]:
    index = PatchIndex.open(folder)
    return Feed(Loader(StoredPatches(index), batch=8, workers=workers, pin=runtime.on_cuda), runtime), index


def _draw(patches: torch.Tensor, index: np.ndarray) -> Views:
    return make_views(patches, index, settings=SETTINGS, seed=3, epoch=1)


def test_views_are_those_of_the_decoded_patches_in_order(make_patches: Make) -> None:
    feed, index = _feed(make_patches(), start("cpu", "fp32", None))
    read = StoredPatches(index)
    order = epoch_order(len(index), 8, 0, 0)
    for wanted, fed in zip(order, feed.batches(order, _draw), strict=True):
        assert isinstance(fed, Fed) and fed.index.tolist() == wanted.tolist() and fed.waited > 0
        expected = _draw(torch.from_numpy(np.stack([read(int(i)) for i in wanted])), wanted)
        assert torch.equal(fed.views.whole, expected.whole) and torch.equal(fed.views.corners, expected.corners)
        feed.look_ahead()


def test_a_batch_that_cannot_be_decoded_passes_through(make_patches: Make) -> None:
    folder = make_patches(slides={"a": (6, 1)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        begin = int(file["jpeg_offsets"][3])
        file["jpeg"][begin : begin + 50] = 0
    feed, _ = _feed(folder, start("cpu", "fp32", None))
    assert [type(fed) for fed in feed.batches(in_turn(0, 6, 2), _draw)] == [Fed, Failed, Fed]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_looking_ahead_on_a_gpu_changes_nothing(make_patches: Make) -> None:
    runtime = start("cuda", "fp32", None)
    feed, index = _feed(make_patches(slides={"a": (12, 10)}), runtime, workers=2)
    order = epoch_order(len(index), 8, 0, 0)
    sums = []
    for ahead in (False, True):
        found = []
        for fed in feed.batches(order, _draw):
            assert isinstance(fed, Fed)
            found.append(fed.views.whole.double().sum())
            if ahead:
                feed.look_ahead()
        sums.append(torch.stack(found).cpu())
    assert torch.equal(*sums) and len(sums[0]) == len(order)
