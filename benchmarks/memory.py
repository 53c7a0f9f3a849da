"""Memory of this process. Imports nothing heavy, so that measuring does not change what is measured."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def status_mib(field: str) -> float:
    """A field of /proc/self/status in MiB, such as VmHWM (peak), VmRSS (resident), RssAnon (resident, without files).

    :raises OSError: there is no such file, which is Linux's.
    """
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 2**10


def peak_mib() -> float:
    """Peak resident memory in MiB.

    VmHWM where it exists: ru_maxrss on Linux includes the memory of the parent before this program was executed.
    """
    if _STATUS.exists():
        return status_mib("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def reset_peak() -> None:
    """Set the peak back to what is resident now.

    :raises OSError: the system does not allow it.
    """
    _CLEAR.write_text("5")
