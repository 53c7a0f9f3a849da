from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.stages.evaluate.stored import stored_result

IDS = {"features": "f1", "labels": "l1"}


@pytest.fixture
def config(tmp_path: Path) -> EvaluateConfig:
    """Settings under which a result was written."""
    config = EvaluateConfig(out=str(tmp_path / "out"), features="f", labels="l.csv")
    out = Path(config.out)
    out.mkdir()
    (out / "report.html").touch()
    outcome = Outcome("evaluate", out, [], warnings=["few patients"], data={"files": ["report.html"], "level": "slide"})
    RunRecord("evaluate", config).write(out, artefact="e1", inputs=IDS, outcome=outcome)
    return config


def test_a_complete_result_is_taken_again(config: EvaluateConfig) -> None:
    found = stored_result(Path(config.out), config, IDS)
    assert found is not None
    assert found[0] == {"files": ["report.html"], "level": "slide"} and found[1] == ["few patients"]


def test_nothing_is_taken_where_there_is_none_or_all_is_made_anew(config: EvaluateConfig, tmp_path: Path) -> None:
    assert stored_result(tmp_path / "new", config, IDS) is None
    assert stored_result(Path(config.out), replace(config, overwrite=True), {"features": "other"}) is None


def test_a_result_that_lacks_a_file_is_made_again(config: EvaluateConfig) -> None:
    (Path(config.out) / "report.html").unlink()
    assert stored_result(Path(config.out), config, IDS) is None


@pytest.mark.parametrize(
    ("changes", "ids", "said"),
    [
        ({"seed": 7}, IDS, "seed"),
        ({}, IDS | {"labels": "l2"}, "--labels has changed"),
        ({}, {"features": "f1"}, "--labels was given"),
        ({}, IDS | {"splits": "s1"}, "--splits was not given"),
    ],
)
def test_another_result_is_refused(
    config: EvaluateConfig, changes: dict[str, int], ids: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match="holds a result of other settings: ") as caught:
        stored_result(Path(config.out), replace(config, **changes), ids)  # type: ignore[arg-type]
    assert said in caught.value.message and caught.value.hint == "choose another --out, or give --overwrite"
