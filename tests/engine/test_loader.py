from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.engine.loader import Batch, Failed, Loader, StoredPatches, decode_jpeg, epoch_order, in_turn
from sgcl_cli.errors import ArtefactError

Make = Callable[..., Path]


def test_an_epoch_is_a_permutation_in_full_batches() -> None:
    order = epoch_order(103, 10, seed=1, epoch=2)
    assert len(order) == 10 and all(len(batch) == 10 for batch in order)
    assert len(set(np.concatenate(order).tolist())) == 100
    assert np.array_equal(np.stack(order), np.stack(epoch_order(103, 10, seed=1, epoch=2)))
    for other in (epoch_order(103, 10, 1, 3), epoch_order(103, 10, 2, 2)):
        assert not np.array_equal(np.stack(order), np.stack(other))


def test_an_epoch_can_begin_in_the_middle() -> None:
    whole = epoch_order(103, 10, 1, 2)
    assert np.array_equal(np.stack(whole[4:]), np.stack(epoch_order(103, 10, 1, 2, start=4)))


def test_in_turn_ends_with_a_short_batch() -> None:
    assert [b.tolist() for b in in_turn(5, 5, 2)] == [[5, 6], [7, 8], [9]]
    assert in_turn(5, 0, 2) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whatever_the_workers(make_patches: Make, workers: int) -> None:
    index = PatchIndex.open(make_patches())
    read = StoredPatches(index)
    loader = Loader(read, workers=workers, pin=False)
    for epoch in range(2):
        order = epoch_order(len(index), 8, 0, epoch)
        for wanted, batch in zip(order, loader.batches(order), strict=True):
            assert isinstance(batch, Batch)
            assert np.array_equal(batch.index, wanted)
            assert np.array_equal(batch.patches[3].numpy(), read(int(wanted[3])))


def test_a_damaged_patch_costs_its_batch_only(make_patches: Make) -> None:
    folder = make_patches(slides={"a": (6, 1)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        start = int(file["jpeg_offsets"][3])
        file["jpeg"][start : start + 50] = 0
    loader = Loader(StoredPatches(PatchIndex.open(folder)), workers=0, pin=False)
    got = list(loader.batches(in_turn(0, 6, 2)))
    assert [type(batch) for batch in got] == [Batch, Failed, Batch]
    assert isinstance(got[1], Failed) and "patch 3 of" in got[1].error.message


def test_dimensions_are_checked_before_decoding(make_patches: Make) -> None:
    data = PatchIndex.open(make_patches()).read(0)
    with pytest.raises(ArtefactError, match="it is 32 x 32 pixels, not 64 x 64"):
        decode_jpeg(data, "it", 64)
    with pytest.raises(ArtefactError, match="more than 16"):
        decode_jpeg(data, "it", largest=16)
    with pytest.raises(ArtefactError, match="not a readable JPEG"):
        decode_jpeg(b"\xff\xd8nonsense", "it")
