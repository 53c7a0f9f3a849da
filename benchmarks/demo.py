"""Size and duration of the demo: the figures in README.md and docs/quick-start.md.

    python benchmarks/demo.py                    # by the Python of the environment to measure; writes to a temporary folder
    python benchmarks/demo.py --out demo         # keeps the output

Runs sample_data/demo.sh. Prints the size of the environment, the wall time of each part of the demo, the wall and CPU time of the
whole, and the size of its output. Sizes are those of the files, in units of 10^6 bytes; a file with several links counts once.
CPU time is that of all processes; wall time depends on the load of the machine, which is printed too.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

DEMO = Path(__file__).parents[1] / "sample_data" / "demo.sh"


def size_mb(folder: Path) -> float:
    """The size of all files in a folder, in 10^6 bytes; links are not followed."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            status = Path(parent, name).lstat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values()) / 1e6


def timed(command: Sequence[str], environment: dict[str, str]) -> list[tuple[str, float]]:
    """Run a command that prints a line "== TITLE" before each of its parts; the seconds of wall time of each part.

    :raises SystemExit: the command fails; its output is printed.
    """
    parts: list[tuple[str, float]] = []
    lines = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("== "):
                parts.append((line[3:].strip(), time.perf_counter()))
    if process.returncode:
        raise SystemExit("".join(lines[-40:]) + f"{' '.join(command)} ended with {process.returncode}")
    ends = [started for _, started in parts[1:]] + [time.perf_counter()]
    return [(title, end - started) for (title, started), end in zip(parts, ends, strict=True)]


def children_seconds() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(out: Path) -> None:
    """Run the demo into a folder, and print the figures."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    print(f"environment {sys.prefix}: {size_mb(Path(sys.prefix)):,.0f} MB")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start")
    parts = timed(["bash", str(DEMO), str(out)], {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"})
    for title, seconds in parts:
        print(f"{seconds:7.1f} s  {title}")
    wall, cpu = sum(seconds for _, seconds in parts), children_seconds()
    print(f"{wall:7.1f} s  together; {cpu:.0f} CPU s, {cpu / wall:.2f} CPUs busy on average")
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    print(f"output: {size_mb(out):,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the output; default: a temporary one")
    given = parser.parse_args()
    if given.out is not None:
        measure(given.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


if __name__ == "__main__":
    main()
