from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.progress import Silent
from sgcl_cli.stages.evaluate.cache import Fits
from sgcl_cli.stages.evaluate.fitting import Scores, expected_seconds, fit, rough_duration

CONFIG = EvaluateConfig(
    out="o", features="f", device="cpu", threads=1, mil_epochs=1, mil_hidden=8, seeds=1, knn_k=1, bootstrap=0
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (59.9, "under a minute"),
        (60, "at most about a minute"),
        (91, "at most about 2 minutes"),
        (5399, "at most about 90 minutes"),
        (5400, "at most about 1.5 hours"),
    ],
)
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert rough_duration(seconds) == words


def fitted(out: Path, cohort: Cohort, plan: Plan, **settings: object) -> tuple[Scores, Fits]:
    fits = Fits(out, cohort)
    config = replace(CONFIG, **settings)  # type: ignore[arg-type]
    return fit(config, cohort, plan, fits, Audit(), reporter=Silent()), fits


def test_every_model_is_scored_and_its_fits_are_kept(tmp_path: Path, small_cohort: Cohort, small_plan: Plan) -> None:
    scores, fits = fitted(tmp_path, small_cohort, small_plan)
    found = {model.key: model.headlines["auroc"].value for model in scores.models}
    assert found["majority"] == 0.5 and found["mean-pool"] == found["simpleshot"] == 1.0
    assert "majority" not in scores.kept and [*scores.kept["mean-pool"].folds] == ["1", "2", "3"]
    assert fits.taken == 0 and scores.efficiency is None
    assert scores.attention_model in scores.kept and sorted(scores.attention) == small_cohort.slide_id.tolist()


def test_earlier_fits_are_taken_again(tmp_path: Path, small_cohort: Cohort, small_plan: Plan) -> None:
    fitted(tmp_path, small_cohort, small_plan)
    _, fits = fitted(tmp_path, small_cohort, small_plan)
    assert fits.taken == fits.asked > 0


def test_a_refit_on_all_patients_is_kept_beside_the_folds(
    tmp_path: Path, small_cohort: Cohort, small_plan: Plan
) -> None:
    scores, _ = fitted(tmp_path, small_cohort, small_plan, refit=True)
    assert [*scores.kept["mean-pool"].folds] == ["1", "2", "3", "all"]


def test_fitting_is_expected_to_take_some_time(small_cohort: Cohort, small_plan: Plan) -> None:
    assert expected_seconds(CONFIG, small_cohort, small_plan) > 0
