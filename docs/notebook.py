"""Runs docs/notebook.ipynb and writes docs/notebook.md, the page of the site with what it prints and draws.

``python docs/notebook.py DEMO`` takes the folder that ``make demo`` wrote. Jupyter is not needed: the code cells run in order,
in one namespace.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
NOTEBOOK = HERE / "notebook.ipynb"
DOWNLOAD = "[This page as a notebook](notebook.ipynb); its output is of the demo's {slides} synthetic slides.\n"


def cells() -> list[tuple[str, str]]:
    """Kind (markdown or code) and source of every cell."""
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in found]


def run(demo: Path) -> tuple[dict[str, Any], list[tuple[str, list[plt.Figure]]]]:
    """Run the code cells on what the demo wrote to a folder.

    :returns: the namespace at the end, and what each code cell printed and drew.
    """
    os.environ["DEMO"] = str(demo)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs: list[tuple[str, list[plt.Figure]]] = []
    for number, (kind, source) in enumerate(cells()):
        if kind == "code":
            before = set(plt.get_fignums())
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(source, f"{NOTEBOOK.name}, cell {number}", "exec"), namespace)
            drawn = [plt.figure(figure) for figure in plt.get_fignums() if figure not in before]
            outputs.append((printed.getvalue(), drawn))
    return namespace, outputs


def page(outputs: list[tuple[str, list[str]]], slides: int) -> str:
    """The page as Markdown.

    :param outputs: of each code cell, what it printed, and the pictures that it drew, as paths from docs/.
    """
    parts, remaining = [], iter(outputs)
    for kind, source in cells():
        if kind == "markdown":
            parts.append(source + "\n")
        else:
            printed, pictures = next(remaining)
            parts.append(f"```python\n{source}\n```\n")
            if printed.strip():
                parts.append(f"```text\n{printed.rstrip()}\n```\n")
            parts += [f"![What the cell draws]({picture})\n" for picture in pictures]
    parts.insert(1, DOWNLOAD.format(slides=slides))
    return "\n".join(parts)


def main(demo: Path) -> None:
    """Write the page and its pictures."""
    _, outputs = run(demo)
    written: list[tuple[str, list[str]]] = []
    for number, (printed, figures) in enumerate(outputs):
        names = [f"figures/notebook_{number}_{place}.png" for place in range(len(figures))]
        for figure, name in zip(figures, names, strict=True):
            figure.savefig(HERE / name, dpi=90)
        plt.close("all")
        written.append((printed, names))
    (HERE / "notebook.md").write_text(page(written, len(list((demo / "slides").iterdir()))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
