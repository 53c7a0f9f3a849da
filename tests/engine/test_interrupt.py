from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from sgcl_cli.engine.interrupt import StopRequest


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that reach the handler of before."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_the_first_signal_is_remembered_and_a_second_acts_as_before(heard: list[int]) -> None:
    with StopRequest() as stop:
        assert stop.signum is None
        signal.raise_signal(signal.SIGTERM)
        assert (stop.signum, heard) == (signal.SIGTERM, [])
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM] * 2


def test_a_repetition_by_a_launcher_does_not_count(heard: list[int]) -> None:
    with StopRequest(settle=60.0) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert (stop.signum, heard) == (signal.SIGTERM, [])


def test_outside_the_main_thread_nothing_is_intercepted(heard: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with StopRequest():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
