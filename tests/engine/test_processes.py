from __future__ import annotations

import os
import signal
import time

import pytest

from sgcl_cli.engine.processes import ending, forked


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "signal 9, perhaps out of memory"),
        (-11, "signal 11, segmentation fault"),
        (-15, "signal 15"),
        (1, "exit code 1"),
        (None, "exit code None"),
    ],
)
def test_endings_in_words(code: int | None, words: str) -> None:
    assert ending(code) == words


def test_signals_for_all_do_not_concern_a_worker() -> None:
    for _ in range(20):
        process = forked(time.sleep, 60)
        for number in (signal.SIGINT, signal.SIGTERM):  # it may not have come to its first line yet
            os.kill(process.pid, number)
        process.join(0.02)
        assert process.is_alive()
        process.kill()
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}
