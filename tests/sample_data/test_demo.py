from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "sample_data" / "demo.sh"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demos_encoder_beats_its_untrained_self_and_mean_colour(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(["bash", DEMO, tmp_path], env=environment, capture_output=True, text=True, check=True)
    assert "sgcl" in done.stdout and (tmp_path / "results" / "report.html").exists()
    found = json.loads((tmp_path / "comparison" / "compare.json").read_text())["differences"]
    margins = {
        each["second"]: each
        for each in found
        if (each["model"], each["metric"]) == ("knn", "balanced_accuracy") and each["first"] == "sgcl"
    }
    assert set(margins) == {"untrained", "mean-colour"}
    for margin in margins.values():
        assert margin["high"] < 0 and margin["p_holm"] < 0.05, margin
