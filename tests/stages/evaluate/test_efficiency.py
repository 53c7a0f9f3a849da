"""Label efficiency."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.progress import Silent
from sgcl_cli.stages.evaluate import cache, efficiency
from sgcl_cli.stages.evaluate import models as evaluate_fit
from tests.stages.evaluate.made import FAST, planned

pytestmark = pytest.mark.usefixtures("quick")


def test_label_efficiency_leaves_shares_without_a_class_out(slides: Path, labels: Path, tmp_path: Path) -> None:
    settings = {"features": str(slides), "labels": str(labels), "label_efficiency": True}
    cohort, plan, _ = planned(tmp_path, **settings)
    config = EvaluateConfig(out=str(tmp_path / "out"), **{**FAST, **settings})
    models = [model for model in evaluate_fit.suite(config, cohort) if model.key == "simpleshot"]
    fits = cache.Fits(tmp_path, cohort)
    found = efficiency.curves(config, cohort, plan, models, fits, reporter=Silent())
    assert found["metric"] == "auroc"
    assert {share: len(values) for share, values in found["curves"]["simpleshot"].items()} == {"0.1": 5, "1": 1}
    assert found["left_out"] == [
        "1 % of the patients is left out: fold 1: 0.01 of 16 patients includes no patient of class 'normal'"
    ]
