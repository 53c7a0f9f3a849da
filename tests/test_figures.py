"""The pictures of docs/ that need no slides can still be drawn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DRAW = Path(__file__).parents[1] / "docs" / "figures" / "draw.py"


def test_figures_of_the_method_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("draw", DRAW)
    assert spec is not None and spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    monkeypatch.setattr(draw, "HERE", tmp_path)
    draw.neighbours()
    draw.laws()
    assert {path.name for path in tmp_path.iterdir()} == {"neighbours.png", "laws.png"}
