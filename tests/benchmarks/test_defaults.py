from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import defaults
from sgcl_cli.config import TileConfig
from sgcl_cli.stages.tile import tile

ROOT = Path(__file__).parents[2]


def _result(base: str, rule: str, seed: int, knn: float, **changes: object) -> dict:
    found = {"corpus": "c", "n": 1_500, "base": base, "rule": rule, "seed": seed, "negatives": 9, "positives": 24.0}
    found |= {"below_chance": 0.5, "below_equal": 0.25, "positive_similarity": 0.75, "negative_similarity": 0.5}
    found |= {"effective_rank_v": 30.0, "spread": 0.5, "scores": {"spots": {"n": 40, "knn": knn, "linear": 0.5}}}
    return {**found, **changes}


def test_the_table_has_seeds_side_by_side_and_differences_to_the_base() -> None:
    nothing = {"below_equal": None, "positive_similarity": None, "negative_similarity": None}
    results = [_result("npid", "alone", seed, 0.5, **nothing) for seed in (0, 1)]
    results += [_result("npid", "default", 1, 0.75), _result("npid", "default", 0, 0.25)]
    lines = defaults.table(results).splitlines()
    assert lines[2].startswith(
        "| c (1,500) | npid | alone | - | 0.50, 0.50 | -, - | -, - | -, - | 30.0, 30.0 | 0.50, 0.50 |"
    )
    assert lines[2].endswith("| 0.500, 0.500 | 0.500, 0.500 |")
    assert "| default | 9 : 24 | 0.50, 0.50 | 0.25, 0.25 | 0.75, 0.75 | 0.50, 0.50 |" in lines[3]
    assert lines[3].endswith("| 0.250, 0.750 | 0.500, 0.500 |")
    assert lines[-1] == "| c | npid | default | +0.000 | -0.250 | +0.250 | 4 |"


def test_a_rule_becomes_options() -> None:
    assert defaults.settings("moco", {}, 1_500, 10, 64) == {"base": "moco"}
    assert defaults.settings("npid", defaults.RULES["k"], 1_500, 10, 64)["negatives"] == 9
    assert defaults.settings("npid", defaults.RULES["k, long ramp"], 1_500, 10, 64)["ramp_epochs"] == 10.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sgcl_learns_on_generated_tissue(tmp_path: Path) -> None:
    """Two bases and two seeds: positives end above negatives, L_sp below what it is where all v are one, and kNN not below the
    base's by more than two standard errors of their difference (two binomials of n patches each)."""
    slides = tmp_path / "slides"
    subprocess.run([sys.executable, ROOT / "sample_data" / "make_slides.py", slides, "--slides", "20"], check=True)
    tiles, annotations = str(tmp_path / "tiles"), str(slides / "annotations")
    tile(TileConfig(slides=(str(slides / "slides"),), out=tiles, mpp=3.5, patch_size=64, annotations=annotations))
    settings = ["radius=1.1", "crop_low=0.5", "brightness=0.2", "contrast=0.2", "saturation=0.2", "hue=0.05"]
    results = defaults.main(
        [
            *("--patches", f"tissue={tiles}", "--labelled", tiles, "--out", str(tmp_path / "out"), "--set", *settings),
            *("--epochs", "10", "--view", "32", "--batch", "32", "--encoder", "benchmarks.defaults:small"),
            *("--rules", "alone", "default", "--seeds", "0", "1"),
        ]
    )
    assert len(results) == 8
    alone = {(r["base"], r["seed"]): r["scores"]["tiles"] for r in results if r["rule"] == "alone"}
    for result in (r for r in results if r["rule"] == "default"):
        assert result["positive_similarity"] > result["negative_similarity"]
        assert result["below_equal"] > 0
        base, own = alone[result["base"], result["seed"]], result["scores"]["tiles"]
        error = sum(score["knn"] * (1 - score["knn"]) / score["n"] for score in (base, own)) ** 0.5
        assert own["knn"] > base["knn"] - 2 * error, (result["base"], result["seed"], own, base)
