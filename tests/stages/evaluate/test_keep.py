from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.stages.evaluate.keep import identity_of, made_by, refit_fold

FEATURES = np.zeros((2, 5), np.float32)


def test_the_refit_uses_every_row_once_to_fit_or_to_choose(small_plan: Plan) -> None:
    fold = refit_fold(small_plan)
    assert fold.name == "all" and fold.fitted.tolist() == [*range(12)]
    assert fold.validation.tolist() == small_plan.folds[0].test.tolist() and fold.test.tolist() == [0]
    assert not {*fold.train.tolist()} & {*fold.validation.tolist()}


def test_features_are_described_as_far_as_they_say() -> None:
    file = FeatureFile(Path("a.h5"), "a", FEATURES, attributes={"encoder": "tiny"}, geometry={"mpp_target": 0.5})
    unknown = {"encoder_sha256": None, "encoder_feed": None}
    assert made_by(file) == {"dim": 5, "encoder": "tiny", **unknown, "mpp": 0.5}
    assert made_by(FeatureFile(Path("a.h5"), "a", FEATURES)) == {"dim": 5, "encoder": None, **unknown, "mpp": None}


def test_the_actual_resolution_counts_before_the_one_asked_for() -> None:
    geometry = {"mpp_target": 0.5, "mpp_actual": 0.52}
    assert made_by(FeatureFile(Path("a.h5"), "a", FEATURES, geometry=geometry))["mpp"] == 0.52


def test_a_slide_is_known_by_its_pixels_where_they_are_recorded(small_cohort: Cohort) -> None:
    file = small_cohort.files[0]
    assert identity_of(file) == "identity s00"
    assert identity_of(replace(file, attributes={"id": "id s00"})) == "id s00"
