from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.engine.loader import (
    Batch,
    Called,
    Failed,
    Loader,
    StoredPatches,
    covering_order,
    decode_jpeg,
    epoch_order,
    in_turn,
)
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
    loader = Loader(read, batch=8, workers=workers, pin=False)
    for epoch in range(2):
        order = epoch_order(len(index), 8, 0, epoch)
        for wanted, batch in zip(order, loader.batches(order), strict=True):
            assert isinstance(batch, Batch)
            assert np.array_equal(batch.index, wanted)
            assert np.array_equal(batch.patches[3].numpy(), read(int(wanted[3])))


def test_batches_stay_valid_until_the_next_but_one_is_asked_for(make_patches: Make) -> None:
    index = PatchIndex.open(make_patches(slides={"a": (12, 10)}))
    read = StoredPatches(index)
    loader = Loader(read, batch=16, workers=2, pin=False)
    before: Batch | None = None
    for epoch in range(4):
        for number, batch in enumerate(loader.batches(epoch_order(len(index), 16, 0, epoch))):
            assert isinstance(batch, Batch)
            time.sleep(0.02)  # the workers run ahead as far as they may
            for held in (before, batch):
                if held is not None:
                    for place in (0, 15):
                        assert np.array_equal(held.patches[place].numpy(), read(int(held.index[place])))
            before = batch
            if epoch == 1 and number == 2:
                break  # an epoch that is left in the middle


def test_workers_outlive_signals_that_go_to_all(make_patches: Make) -> None:
    index = PatchIndex.open(make_patches())
    loader = Loader(StoredPatches(index), batch=8, workers=2, pin=False)
    order = epoch_order(len(index), 8, 0, 0)
    assert len(list(loader.batches(order))) == 3
    for child in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)
    assert len(list(loader.batches(order))) == 3


def test_any_function_is_a_source() -> None:
    source = Called(lambda i: np.full((4, 4, 3), i, np.uint8), 4)
    for workers in (0, 1):
        batches = list(Loader(source, batch=3, workers=workers, pin=False).batches(in_turn(5, 4, 3)))
        assert [b.patches[:, 1, 2, 0].tolist() for b in batches] == [[5, 6, 7], [8]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_patch_costs_its_batch_only(make_patches: Make, workers: int) -> None:
    folder = make_patches(slides={"a": (6, 1)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        start = int(file["jpeg_offsets"][3])
        file["jpeg"][start : start + 50] = 0
    loader = Loader(StoredPatches(PatchIndex.open(folder)), batch=2, workers=workers, pin=False)
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


@pytest.mark.parametrize(("count", "batch"), [(200, 128), (256, 128), (7, 3), (5, 5)])
def test_a_covering_order_has_every_patch_in_full_batches(count: int, batch: int) -> None:
    order = covering_order(count, batch, 3, 9)
    assert {len(part) for part in order} == {batch} and len(order) == -(-count // batch)
    assert set(np.concatenate(order).tolist()) == set(range(count))
    full = epoch_order(count, batch, 3, 9)
    assert all(np.array_equal(*pair) for pair in zip(order, full, strict=False))
