from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgcl_cli.engine import loader as loading
from sgcl_cli.engine.decoders import DecoderLostError, Slots
from sgcl_cli.engine.loader import Batch, Called, Failed, Loader, Missing, in_turn
from sgcl_cli.errors import ArtefactError, TrainingError

SIDE = 4
FILES = Path("/proc/self/fd")


def grey(i: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), i % 256, np.uint8)


def slow(i: int) -> np.ndarray:
    time.sleep(0.004)
    return grey(i)


def deadly(i: int) -> np.ndarray:
    """Patch 21 kills whoever decodes it."""
    if i == 21:
        os.kill(os.getpid(), signal.SIGKILL)
    return grey(i)


def broken(i: int) -> np.ndarray:
    if i == 21:
        raise ZeroDivisionError("nobody foresaw this")
    return grey(i)


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


def opened(read: Callable[[int], np.ndarray], workers: int, batch: int = 16) -> Loader:
    return Loader(Called(read, SIDE), batch=batch, workers=workers, pin=False)


def right(batch: Batch) -> bool:
    return batch.patches[:, 1, 2, 0].tolist() == (batch.index % 256).tolist()


def decoders() -> list[Any]:
    return multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_closed_loader_has_no_processes_and_its_batches_stay(workers: int) -> None:
    with opened(grey, workers) as loader:
        assert len(decoders()) == workers
        first = next(iter(loader.batches(in_turn(0, 160, 16))))
        assert isinstance(first, Batch)
        loader.close()
        assert not decoders() and right(first)
        with pytest.raises(ValueError, match="were closed"):
            list(loader.batches(in_turn(0, 160, 16)))


def test_a_loader_that_nobody_holds_any_more_has_no_processes() -> None:
    loader = opened(grey, 2)
    next(iter(loader.batches(in_turn(0, 160, 16))))
    del loader
    assert not decoders()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_order_may_be_left_in_the_middle(workers: int) -> None:
    with opened(slow, workers) as loader:
        for count in (0, 1, 2, 3):
            for _, batch in zip(range(count), loader.batches(in_turn(100, 160, 16)), strict=False):
                assert isinstance(batch, Batch) and right(batch)
            whole = list(loader.batches(in_turn(7, 33, 16)))
            assert [len(batch.index) for batch in whole] == [16, 16, 1]
            assert all(isinstance(batch, Batch) and right(batch) for batch in whole[1:])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_is_killed_costs_one_batch(workers: int) -> None:
    with opened(slow, workers) as loader:
        got: list[Batch | Failed] = []
        for number, batch in enumerate(loader.batches(in_turn(0, 16 * 12, 16))):
            assert isinstance(batch, Failed) or right(batch)
            got.append(batch)
            if number == 1:
                os.kill(decoders()[0].pid, signal.SIGKILL)
        (lost,) = [batch for batch in got if isinstance(batch, Failed)]
        assert isinstance(lost.error, DecoderLostError) and "died (signal 9" in lost.error.message
        assert np.concatenate([batch.index for batch in got]).tolist() == list(range(16 * 12))
        (again,) = loader.one_by_one(lost)
        assert isinstance(again, Batch) and right(again) and again.index.tolist() == lost.index.tolist()
        assert len(decoders()) == workers


def test_a_decoder_that_dies_with_nothing_to_do_is_told_too() -> None:
    with opened(grey, 1) as loader:
        assert len(list(loader.batches(in_turn(0, 32, 16)))) == 2
        for process in decoders():
            os.kill(process.pid, signal.SIGKILL)
            process.join(10)
        first, second = loader.batches(in_turn(0, 32, 16))
        assert isinstance(first, Failed) and isinstance(first.error, DecoderLostError)
        assert isinstance(second, Batch) and right(second)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_patch_that_kills_is_found_and_the_others_of_its_batch_come(workers: int) -> None:
    with opened(deadly, workers) as loader:
        first, second, third = loader.batches(in_turn(0, 48, 16))
        assert isinstance(first, Batch) and isinstance(second, Failed) and isinstance(third, Batch)
        assert "died (signal 9, perhaps out of memory)" in second.error.message
        missing, rest = loader.one_by_one(second)
        assert isinstance(missing, Missing) and missing.index == 21
        assert "twice at the same patch" in missing.error.message
        assert isinstance(rest, Batch) and right(rest) and len(rest.index) == 15


@pytest.mark.parametrize("workers", [0, 1])
def test_what_nobody_foresaw_is_raised_as_it_is(workers: int) -> None:
    with opened(broken, workers) as loader, pytest.raises(ZeroDivisionError, match="nobody foresaw") as caught:
        list(loader.batches(in_turn(0, 48, 16)))
    if workers:
        assert "in broken" in caught.value.__notes__[0]


@pytest.mark.skipif(not FILES.exists(), reason="open files are counted in /proc")
def test_the_dead_keep_no_files_open() -> None:
    with opened(deadly, 2, batch=1) as loader:
        before = len([*FILES.iterdir()])
        got = list(loader.batches([np.array([21])] * 12))
        assert all(isinstance(batch, Failed) for batch in got)
        assert len([*FILES.iterdir()]) <= before


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_not_written_to_while_it_is_copied(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does is a copy that reads the memory late, when it is waited for."""
    with opened(grey, workers) as loader:
        slots = len(loader._slots.pixels)
        copied: list[int] = []
        for number, batch in enumerate(loader.batches(in_turn(0, 16 * 4 * slots, 16))):
            assert isinstance(batch, Batch)

            def copy(number: int = number, batch: Batch = batch) -> None:
                assert right(batch)
                copied.append(number)

            loader.copying(batch, copy)
            assert copied == list(range(max(0, number - 1)))[: len(copied)] and len(copied) >= number + 1 - slots
        assert copied == list(range(3 * slots))
        assert loading._HELD >= 2


class Cudart:
    """Stands in for CUDA's runtime: what is asked of it is noted, and ``code`` answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.code = code

        def check(code: int) -> None:
            if code:
                raise RuntimeError(f"out of memory ({code})")

        monkeypatch.setattr(torch.cuda, "cudart", lambda: self)
        monkeypatch.setattr(torch.cuda, "check_error", check)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: self.asked.append(("wait",)))

    def cudaHostRegister(self, pointer: int, size: int, flags: int) -> int:  # noqa: N802
        self.asked.append(("register", pointer, size, flags, [process.pid for process in decoders()]))
        return self.code

    def cudaHostUnregister(self, pointer: int) -> int:  # noqa: N802
        self.asked.append(("unregister", pointer))
        return 0


def test_page_locked_memory_is_given_back_after_the_last_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = Cudart(monkeypatch, 0)
    loader = Loader(Called(grey, SIDE), batch=16, workers=2, pin=True)
    pointer, size = loader._slots.tensor.data_ptr(), loader._slots.tensor.nbytes
    ((_, *registered, forked),) = cudart.asked
    assert registered == [pointer, size, 0] and len(forked) == 2, "processes are forked before memory is locked"
    loader.close()
    loader.close()
    assert cudart.asked[1:] == [("wait",), ("unregister", pointer)]


def test_memory_that_cuda_does_not_lock_is_told_and_nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = Cudart(monkeypatch, 2)
    with pytest.raises(TrainingError, match=r"CUDA cannot page-lock 0 MiB .*out of memory \(2\)"):
        Loader(Called(grey, SIDE), batch=16, workers=2, pin=True)
    assert len(cudart.asked) == 1 and not decoders()


def test_a_device_that_failed_does_not_hide_its_error_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = Cudart(monkeypatch, 0)
    slots = Slots(1, 1, SIDE)
    slots.pin()
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: (_ for _ in ()).throw(RuntimeError("assert")))
    slots.close()
    assert cudart.asked[-1][0] == "unregister"


SCRIPT = """
import sys, time, multiprocessing
import numpy as np
from sgcl_cli.engine.loader import Called, Loader, in_turn
def read(i):
    time.sleep(0.005)
    return np.zeros((4, 4, 3), np.uint8)
loader = Loader(Called(read, 4), batch=8, workers=2, pin=False)
batches = loader.batches(in_turn(0, 8000, 8))
next(batches)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
{then}
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(then: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", SCRIPT.format(then=then)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_loader_that_nobody_closed_does_not_hold_the_end_up(script: Callable[[str], subprocess.Popen[str]]) -> None:
    said, errors = script("sys.exit(7)").communicate(timeout=60)  # closed pipes: the decoders are gone too
    assert len(said.split()) == 2 and errors == ""


def test_decoders_end_when_their_parent_is_gone(script: Callable[[str], subprocess.Popen[str]]) -> None:
    process = script("time.sleep(600)")
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.communicate(timeout=30)  # it ends only when nobody has its end of the pipes
    assert len(pids) == 2 and process.returncode == -signal.SIGKILL


def test_errors_of_known_kinds_keep_their_hint() -> None:
    def read(i: int) -> np.ndarray:
        raise ArtefactError("it is torn", "mend it")

    with opened(read, 1) as loader:
        (failed,) = loader.batches(in_turn(0, 8, 16))
    assert isinstance(failed, Failed) and (failed.error.message, failed.error.hint) == ("it is torn", "mend it")
