"""A finished evaluation, opened as a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgcl_cli.artefacts.evaluations import Evaluated
from sgcl_cli.errors import ArtefactError

SPLITS = ["slide_id,patient_id,fold,split", "b,p2,0,test", "a,p1,0,train"]
PREDICTIONS = ["slide_id,patient_id,fold,model,p", "b,p2,0,linear,0.25", "b,p2,0,knn,0.75"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps({"stage": "evaluate", "id": "abc"}))
    (tmp_path / "metrics.json").write_text(json.dumps({"task": "binary", "models": {}, "counts": {}}))
    (tmp_path / "splits.csv").write_text("\n".join(SPLITS) + "\n")
    (tmp_path / "predictions.csv").write_text("\n".join(PREDICTIONS) + "\n")
    return tmp_path


def test_what_it_holds(folder: Path) -> None:
    found = Evaluated.open(str(folder))
    assert (found.folder, found.id, found.result["task"]) == (folder, "abc", "binary")
    assert [row["slide_id"] for row in found.splits] == ["a", "b"]  # sorted
    assert [(row["model"], row["p"]) for row in found.predictions] == [("linear", "0.25"), ("knn", "0.75")]


def test_the_splits_have_an_id_whatever_their_order(folder: Path) -> None:
    before = Evaluated.open(folder).splits_id
    (folder / "splits.csv").write_text("\n".join([SPLITS[0], SPLITS[2], SPLITS[1]]) + "\n")
    assert Evaluated.open(folder).splits_id == before
    (folder / "splits.csv").write_text("\n".join([*SPLITS[:2], "a,p1,0,val"]) + "\n")
    assert Evaluated.open(folder).splits_id != before


def test_warnings_of_the_audit(folder: Path) -> None:
    assert Evaluated.open(folder).warnings == []
    findings = [{"level": "warning", "message": "few slides"}, {"level": "error", "message": "leak"}]
    (folder / "audit.json").write_text(json.dumps({"findings": findings}))
    assert Evaluated.open(folder).warnings == ["few slides"]


def test_an_audit_of_another_form_is_refused(folder: Path) -> None:
    (folder / "audit.json").write_text('{"findings": [{"level": "warning"}]}')
    with pytest.raises(ArtefactError, match=r"audit\.json .*it has no 'message'") as caught:
        _ = Evaluated.open(folder).warnings
    assert caught.value.hint == "evaluate again"


def test_no_finished_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="holds no finished evaluation") as caught:
        Evaluated.open(tmp_path)
    assert "--out" in caught.value.hint


def test_the_output_of_another_stage(folder: Path) -> None:
    (folder / "run.json").write_text('{"stage": "embed"}')
    with pytest.raises(ArtefactError, match="holds the output of sgcl embed"):
        Evaluated.open(folder)


@pytest.mark.parametrize("text", ["slide_id,patient_id,fold\na,p,0\n", "slide_id,patient_id,fold,split,model\n"])
@pytest.mark.parametrize("name", ["splits.csv", "predictions.csv"])
def test_a_table_without_rows_or_a_column_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ArtefactError, match=f"{name} lacks rows, or one of slide_id"):
        Evaluated.open(folder)


def test_metrics_without_counts_are_refused(folder: Path) -> None:
    (folder / "metrics.json").write_text('{"task": "binary", "models": {}}')
    with pytest.raises(ArtefactError, match=r"metrics\.json has no counts"):
        Evaluated.open(folder)
