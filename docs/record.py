"""Run the commands of a page and write their output into it: ``python -m docs.record docs/tutorial.md INPUTS``.

``INPUTS`` is a folder with the files that the page starts from; the commands run in a copy of it. The output of the commands of
a block ``sh`` is written to the block ``text`` that follows it under ``<!-- printed -->``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

BLOCK = re.compile(
    r"```sh\n(?P<commands>.*?)```(?P<printed>\n\n<!-- printed -->\n```text\n(?P<output>.*?)```)?", re.DOTALL
)
PROGRESS = re.compile(r"\w[\w ]*: \d+(/\d+)? \w+, \d+ s\b.*")
USABLE = (0, 3)  # exit codes after which the page goes on


def steps(page: str) -> Iterator[tuple[str, str | None]]:
    """The commands of each block of a page, and the output that the page shows for them, None where it shows none."""
    for block in BLOCK.finditer(page):
        yield block["commands"], block["output"]


def record(page: str, execute: Callable[[str], str]) -> str:
    """The page with the output of each of its blocks.

    :param execute: runs the commands of a block and returns what they print.
    """

    def replaced(block: re.Match[str]) -> str:
        output = execute(block["commands"])
        head = f"```sh\n{block['commands']}```"
        return f"{head}\n\n<!-- printed -->\n```text\n{output}```" if block["printed"] else head

    return BLOCK.sub(replaced, page)


def run(commands: str, folder: Path) -> str:
    """What the commands print in a shell in ``folder``, without lines of progress.

    :raises subprocess.CalledProcessError: if they end with another exit code than 0 or 3.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", commands],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "110"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"$ {commands}{done.stdout}", flush=True)
    if done.returncode not in USABLE:
        raise subprocess.CalledProcessError(done.returncode, commands)
    return without_progress(done.stdout)


def without_progress(output: str) -> str:
    lines = [line.rstrip() for line in output.splitlines() if not PROGRESS.fullmatch(line)]
    return "\n".join(lines).strip("\n") + "\n"


def main(page: Path, inputs: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "cohort")
        shutil.copytree(inputs, folder)
        page.write_text(
            record(page.read_text(encoding="utf-8"), lambda commands: run(commands, folder)), encoding="utf-8"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
