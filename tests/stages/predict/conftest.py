from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.stages.evaluate import evaluate
from tests.stages.predict.made import BAG_MODELS, FAST, TARGETS, cohort, table


@pytest.fixture(scope="session", params=TARGETS)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    labels = str(table(folder / "labels.csv", TARGETS[request.param]))
    features = str(cohort(folder / "features"))
    evaluate(EvaluateConfig(features=features, labels=labels, out=str(folder / "result"), models=BAG_MODELS, **FAST))
    return folder / "result"


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refit")
    labels = str(table(folder / "labels.csv", TARGETS["classes"]))
    settings = {**FAST, "models": "abmil", "seeds": 1, "refit": True}
    features = cohort(folder / "features", encoder_feed='{"layer": "layer4"}')
    evaluate(EvaluateConfig(features=str(features), labels=labels, out=str(folder / "result"), **settings))
    return folder / "result"
