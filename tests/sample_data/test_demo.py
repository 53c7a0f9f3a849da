from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demos_encoder_beats_its_untrained_self_and_mean_colour(demo: Path) -> None:
    found = json.loads((demo / "comparison" / "compare.json").read_text())["differences"]
    margins = {
        each["second"]: each
        for each in found
        if (each["model"], each["metric"]) == ("knn", "balanced_accuracy") and each["first"] == "sgcl"
    }
    assert set(margins) == {"untrained", "mean-colour"}
    for margin in margins.values():
        assert margin["low"] > 0 and margin["p_holm"] < 0.05, margin


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_writes_the_pages_that_it_names(demo: Path) -> None:
    pages = ("comparison/compare.html", "patches/sgcl/report.html", "results/report.html", "tiles/index.html")
    pictures = ("run/neighbours.png", "run/curves.png", "run/views.png")
    assert [name for name in (*pages, *pictures, "predictions/predictions.csv") if not (demo / name).exists()] == []
