from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgcl_cli.engine.loader import Batch, Failed, Missing
from sgcl_cli.engine.readers import Readers, Reading, WorkerLostError
from sgcl_cli.errors import SgclError, SlideError

SIZE, BATCH = 2, 32
FILES = Path("/proc/self/fd")


def patch(number: int, row: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), (number, row % 256, row // 256), np.uint8)


def read(task: tuple[int, int, str], share: Callable[[], int]) -> Iterator[tuple[int, np.ndarray | SgclError]]:
    """The rows of a slide from the last to the first; in the middle something may happen."""
    number, count, event = task
    for row in reversed(range(count)):
        if row == count // 2 and event == "missing":
            yield row, SlideError("row is torn", "")
            continue
        if row == count // 2 and event == "fail":
            raise SlideError("slide is torn", "")
        if row == count // 2 and event == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if row == count // 2 and event == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        if event == "slow":
            time.sleep(0.02)
        yield row, patch(number, row)


def readings(*slides: tuple[int, str]) -> list[Reading[Any]]:
    starts = np.cumsum([0, *(count for count, _ in slides)]).tolist()
    return [Reading((number, count, event), starts[number], count) for number, (count, event) in enumerate(slides)]


def gathered(given: list[Reading[Any]], workers: int, pause: float = 0.0, **settings: Any) -> tuple[dict, list]:
    """The patches by global index, and what was told besides."""
    found, told = {}, []
    with Readers(read, SIZE, BATCH, workers, False, **settings) as readers:
        for arrived in readers.batches(given):
            if isinstance(arrived, Batch):
                assert len(arrived.patches) == len(arrived.index) <= BATCH and not set(arrived.index) & set(found)
                found |= dict(zip(arrived.index.tolist(), arrived.patches.numpy().copy(), strict=True))
                time.sleep(pause)
            else:
                told.append(arrived)
        processes = [worker.process for worker in readers._running]
    assert not any(process.is_alive() for process in processes)
    return found, told


def right(found: dict[int, np.ndarray], given: list[Reading[Any]], *slides: int) -> bool:
    """Whether just the patches of these slides are there, each where it belongs."""
    wanted = {given[number].start + row: patch(number, row) for number in slides for row in range(given[number].count)}
    return found.keys() == wanted.keys() and all(np.array_equal(found[i], wanted[i]) for i in found)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_patch_of_every_slide_arrives_once_in_full_batches(workers: int) -> None:
    given = readings((50, ""), (1, ""), (700, ""), (17, ""), (0, ""), (64, ""))
    found, told = gathered(given, workers)
    assert right(found, given, 0, 1, 2, 3, 4, 5) and not told


def batches_of(given: list[Reading[Any]], workers: int) -> dict[int, list[list[int]]]:
    """By slide the rows of its batches, in their order."""
    found: dict[int, list[list[int]]] = {number: [] for number in range(len(given))}
    with Readers(read, SIZE, BATCH, workers, False) as readers:
        for arrived in readers.batches(given):
            if isinstance(arrived, Batch):
                (number,) = {int(patch[0, 0, 0]) for patch in arrived.patches}
                found[number].append((arrived.index - given[number].start).tolist())
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_is_of_one_slide_in_the_order_of_reading(workers: int) -> None:
    """A patch that cannot be read has its place in a batch: in 70 rows, read from the last, row 35 is the 35th."""
    given = readings((70, "missing"), (5, ""), (BATCH, ""), (40, "slow"))
    down = [*range(69, -1, -1)]
    assert batches_of(given, workers) == {
        0: [down[:32], down[32:34] + down[35:64], down[64:]],
        1: [[4, 3, 2, 1, 0]],
        2: [[*range(BATCH - 1, -1, -1)]],
        3: [[*range(39, 7, -1)], [*range(7, -1, -1)]],
    }


@pytest.mark.parametrize(("event", "kind"), [("missing", Missing), ("fail", Failed), ("die", Failed)])
def test_what_happens_to_one_slide_costs_the_others_nothing(event: str, kind: type) -> None:
    given = readings((40, ""), (20, event), (30, ""), (25, ""))
    found, (told,) = gathered(given, 1)
    assert isinstance(told, kind) and {0, 2, 3} <= {n for n in range(4) if right_part(found, given[n])}
    if event == "missing":
        assert told.index == 40 + 10 and told.index not in found and "row is torn" in told.error.message
    else:
        assert told.index.tolist() == list(range(40, 60))
        assert isinstance(told.error, WorkerLostError) == (event == "die")


def right_part(found: dict[int, np.ndarray], reading: Reading[Any]) -> bool:
    number, count, _ = reading.task
    return all(np.array_equal(found.get(reading.start + row), patch(number, row)) for row in range(count))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_slide_that_hangs_its_reader_costs_itself_only(workers: int) -> None:
    """Stopped as by a C library that never returns: no exception in Python would reach it."""
    given = readings((40, ""), (300, "hang"), (30, ""), (100, "slow"), (25, ""))
    began = time.monotonic()
    found, (told,) = gathered(given, workers, timeout=3.0)
    assert time.monotonic() - began < 60
    assert isinstance(told, Failed) and isinstance(told.error, WorkerLostError)
    assert "nothing was read of it for 3 s" in told.error.message and "--slide-timeout" in told.error.hint
    assert told.index.tolist() == list(range(40, 340))
    assert all(right_part(found, given[number]) for number in (0, 2, 3, 4))


@pytest.mark.slow
def test_readers_that_wait_for_the_encoder_are_not_given_up() -> None:
    """The encoder takes longer for a batch than a slide may be silent; one reader is ahead of it, and the other waits."""
    given = readings((128, ""), (64, "slow"))
    found, told = gathered(given, 2, pause=1.5, timeout=1.2)
    assert right(found, given, 0, 1) and not told


def test_a_patience_beyond_what_pipes_can_wait_is_taken_for_long() -> None:
    given = readings((40, ""))
    found, told = gathered(given, 1, timeout=1e9)
    assert right(found, given, 0) and not told


@pytest.mark.skipif(not FILES.exists(), reason="open files are counted in /proc")
def test_the_dead_keep_no_files_open() -> None:
    before = len([*FILES.iterdir()])
    found, told = gathered(readings(*[(8, "die")] * 12), 2)
    assert not found and len(told) == 12
    assert len([*FILES.iterdir()]) <= before + 1
