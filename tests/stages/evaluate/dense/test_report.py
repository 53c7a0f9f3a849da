"""Results of ``--dense`` from counts of pixels: Dice and IoU, differences, tables and the page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.slide.annotations.outlines import Raster
from sgcl_cli.stages.evaluate.dense import report
from sgcl_cli.stages.evaluate.dense.masks import Masked, Masks

CARD = EncoderCard("tiny", 8, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, 64)
PATIENTS = ("p", "p", "q")  # of slides a, b, c
RIGHT = ([[6, 2], [0, 2]], [[2, 0], [2, 6]], [[5, 5], [0, 0]])  # pixels by truth and prediction
EVEN = ([[8, 0], [2, 0]], [[2, 0], [8, 0]], [[10, 0], [0, 0]])


def masks() -> Masks:
    slides = tuple(
        Masked(number, SimpleNamespace(slide_id=name), patient, patient, Raster(np.zeros((1, 1), np.uint8), (1, 1), {}))
        for number, (name, patient) in enumerate(zip("abc", PATIENTS, strict=True))
    )
    return Masks(slides, ("fat", "tumour"), "patients", "patients", {9: 0.25}, "id of masks", ())


def heads(counts: tuple[list[list[int]], ...] = RIGHT, *, converged: bool = True) -> report.Heads:
    fit = {"reported": ["a", "b"], "c": 1.0, "converged": converged, "pixels": 7}
    return report.Heads(*({i: np.array(c) for i, c in enumerate(one)} for one in (counts, EVEN)), [fit])


def settings(out: Path) -> EvaluateConfig:
    return EvaluateConfig(dense="masks", encoder="run", patches="tiles", out=str(out), bootstrap=50)


def content_with(out: Path, found: dict[str, report.Heads]) -> dict:
    return {"format": "f", "id": "i", **report.content_of(settings(out), masks(), CARD, 2, found)}


@pytest.fixture
def content(tmp_path: Path) -> dict:
    return content_with(tmp_path, {"head": heads()})


def test_scores_are_of_all_pixels_together(content: dict) -> None:
    head = content["scores"]["head"]
    assert head["confusion"] == [[13, 7], [2, 8]] and head["pixels"] == 30
    assert head["dice"]["fat"]["value"] == pytest.approx(26 / 35)
    assert head["iou"]["tumour"]["value"] == pytest.approx(8 / 17)
    assert head["mean_dice"]["value"] == pytest.approx((26 / 35 + 16 / 25) / 2)
    assert head["mean_dice"]["no_interval"] == "2 patients, fewer than 10" and head["mean_dice"]["low"] is None
    assert (content["slides"], content["patients"], content["groups"], content["folds"]) == (3, 2, 2, 2)
    assert content["models"] == {"head": "Linear head, tiny", "majority": "Commonest class"}


def test_differences_are_those_of_the_mean_scores(content: dict) -> None:
    found = content["differences"]["majority"]
    assert set(content["differences"]) == {"majority"}
    assert found["mean_dice"]["value"] == pytest.approx((26 / 35 + 16 / 25) / 2 - (40 / 50) / 2)
    assert found["mean_dice"]["no_interval"] == "2 patients, fewer than 10"


def test_each_slide_has_its_own_scores(content: dict) -> None:
    a, _, c = content["per_slide"]
    assert (a["slide_id"], a["group"], a["pixels"]) == ("a", "p", 10)
    assert a["dice"]["fat"]["value"] == pytest.approx(12 / 14)
    assert c["dice"]["tumour"]["value"] == 0.0 and c["iou"]["fat"]["value"] == pytest.approx(0.5)


def test_the_closing_tables_have_classes_by_models(content: dict, tmp_path: Path) -> None:
    outcome = report.outcome_of(tmp_path, content, ["a warning"], {})
    assert outcome.matrix is not None and outcome.total == 3 and outcome.warnings == ["a warning"]
    dice, iou = outcome.matrix, *outcome.further
    assert (dice.corner, iou.corner) == ("Dice", "IoU") and dice.columns == ["Linear head, tiny", "Commonest class"]
    assert dice.rows == [("mean", ["0.691", "0.400"]), ("fat", ["0.743", "0.800"]), ("tumour", ["0.640", "0.000"])]
    assert iou.rows[1] == ("fat", ["0.591", "0.667"])


def test_files_and_page_hold_the_same_numbers(tmp_path: Path, content: dict) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text("{}")
    outcome = report.write(settings(out), masks(), content, ["a warning"])
    assert not (out / "run.json").exists(), "a result that is being replaced is no longer complete"
    assert json.loads((out / "dense.json").read_text()) == json.loads(json.dumps(content))
    assert outcome.data["files"][:3] == ["dense.json", "dense.csv", "report.html"]
    assert all((out / name).exists() for name in outcome.data["files"]) and outcome.warnings == ["a warning"]
    with (out / "dense.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["scope"], row["slide_id"], row["class"], row["pixels"]) for row in rows][:3] == [
        ("head", "", "fat", "20"),
        ("head", "", "tumour", "10"),
        ("majority", "", "fat", "20"),
    ]
    last = rows[-2]
    assert (last["scope"], last["slide_id"], last["no_interval"]) == ("slide", "c", "a single slide")
    assert float(last["dice"]) == pytest.approx(2 * 5 / 15)
    page = (out / "report.html").read_text()
    assert "Segmentation from feature maps: fat and tumour" in page and "a warning" in page
    assert "9 (25.0%)" in page and "No interval: 2 patients, fewer than 10." in page
    assert "Random weights" not in page and "did not converge" not in page


def test_heads_that_did_not_converge_and_random_weights_are_on_the_page(tmp_path: Path) -> None:
    found = {"head": heads(converged=False), "random": heads(EVEN)}
    content = content_with(tmp_path, found)
    assert content["models"]["random"] == "Linear head, random weights" and set(content["differences"]) == {
        "random",
        "majority",
    }
    outcome = report.write(settings(tmp_path), masks(), content, [])
    page = (tmp_path / "report.html").read_text()
    assert "the head tested on a, b did not converge" in page and "Random weights" in page
    assert outcome.data["files"][:3] == ["dense.json", "dense.csv", "report.html"]
