from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import memory

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def test_the_peak_holds_memory_that_was_used_and_freed() -> None:
    before = memory.peak_mib()
    block = np.ones(2 * int(before) * 2**17)  # twice the peak in float64
    del block
    assert memory.peak_mib() > 2 * before


@linux
def test_the_peak_is_not_below_what_is_resident() -> None:
    assert memory.peak_mib() >= memory.status_mib("VmRSS") > memory.status_mib("RssAnon") > 1


def test_without_proc_the_peak_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATUS", Path("absent"))
    assert 10 < memory.peak_mib() < 10**6 and "resource" in sys.modules
