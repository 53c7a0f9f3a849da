"""Signals that a loop asks about between two steps."""

from __future__ import annotations

import signal
import threading

import pytest

from sgcl_cli.engine.interrupt import StopRequest


@pytest.fixture(autouse=True)
def handlers():
    """Both signals raise in the process of the tests, and are as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def raised(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in before:
        signal.signal(number, raised)
    yield raised
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_remembered(number: int) -> None:
    with StopRequest() as stop:
        assert stop.signum is None
        signal.raise_signal(number)
        assert stop.signum == number


def test_a_second_acts_as_before() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM


def test_a_repetition_within_the_time_to_settle_counts_as_the_first() -> None:
    with StopRequest(settle=3600.0) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGINT


def test_the_handlers_are_put_back(handlers) -> None:
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) is not handlers
    assert signal.getsignal(signal.SIGINT) is handlers and signal.getsignal(signal.SIGTERM) is handlers


def test_nothing_is_intercepted_outside_the_main_thread(handlers) -> None:
    found = []

    def work() -> None:
        with StopRequest() as stop:
            found.append((signal.getsignal(signal.SIGINT), stop.signum))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(handlers, None)]
