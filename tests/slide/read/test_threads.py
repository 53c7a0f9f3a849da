from __future__ import annotations

import threading
import time

import pytest

from sgcl_cli.slide.read.threads import ALONE, Threads


def test_results_come_in_order_and_each_item_is_done_once():
    done = []

    def square(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        done.append(number)
        return number**2

    with Threads(lambda: 3) as threads:
        assert threads.map(square, range(50)) == [number**2 for number in range(50)]
    assert sorted(done) == list(range(50))


def test_no_more_threads_work_than_allowed_at_the_moment():
    allowed, working, most = 3, 0, 0
    lock = threading.Lock()

    def work(_: int) -> int:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.005)
        with lock:
            working -= 1
        return threading.get_ident()

    with Threads(lambda: allowed) as threads:
        assert threading.get_ident() in threads.map(work, range(30))
        assert most == 3
        allowed, most = 1, 0
        assert set(threads.map(work, range(5))) == {threading.get_ident()} and most == 1
        allowed = 5
        threads.map(work, range(30))
        assert most == 5


@pytest.mark.parametrize("size", [1, 4])
def test_a_failure_stops_the_work_and_is_raised(size):
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        time.sleep(0.002)
        if number == 3:
            raise ValueError("three")

    with Threads(lambda: size) as threads, pytest.raises(ValueError, match="three"):
        threads.map(fail, range(1000))
    assert len(begun) < 20


def test_one_alone_starts_no_thread():
    before = threading.active_count()
    assert ALONE.map(lambda number: number + 1, [1, 2, 3]) == [2, 3, 4]
    assert threading.active_count() == before
