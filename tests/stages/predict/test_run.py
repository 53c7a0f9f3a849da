"""Models that an evaluation kept, applied: the same numbers on the same slides, new slides, and peers' features."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.slide.colours import CLASSES, hexadecimal
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.predict import predict
from tests.stages.predict.made import DIM, FAST, applied, cohort, read, table, write_slide


def test_a_folds_models_say_again_what_they_said(result: Path, tmp_path: Path) -> None:
    """Every model, target and seed; on the slides that were evaluated the mean is that of the folds that did not see them."""
    outcome = predict(applied(result, tmp_path / "out"))
    again = {(row["slide_id"], row["model"], row["fold"]): row for row in read(tmp_path / "out" / "folds.csv")}
    mean = {(row["slide_id"], row["model"]): row for row in read(tmp_path / "out" / "predictions.csv")}
    before = [row for row in read(result / "predictions.csv") if row["model"] != "majority"]
    told = [name for name in before[0] if name.startswith("p_") or name == "risk"] or ["predicted"]
    assert len({row["model"] for row in before}) >= 9
    for row in before:
        own = again[row["slide_id"], row["model"], row["fold"]]
        assert own["fitted_on"] == "no"
        for name in told:
            assert float(own[name]) == pytest.approx(float(row[name]), abs=1e-6, rel=1e-6)
            assert float(mean[row["slide_id"], row["model"]][name]) == pytest.approx(
                float(row[name]), abs=1e-6, rel=1e-6
            )
    assert [warning for warning in outcome.warnings if "some folds were fitted on 12 of these 12 slides" in warning]
    page = (tmp_path / "out" / "predictions.html").read_text()
    assert "sgcl predict" in page and "s03" in page


def test_new_slides_get_the_mean_of_the_folds_and_its_spread(result: Path, tmp_path: Path) -> None:
    new = cohort(tmp_path / "new", 3, start=40)
    outcome = predict(applied(result, tmp_path / "out", new))
    assert not [warning for warning in outcome.warnings if "fitted on" in warning]
    folds: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in read(tmp_path / "out" / "folds.csv"):
        folds.setdefault((row["slide_id"], row["model"]), []).append(row)
    rows = read(tmp_path / "out" / "predictions.csv")
    assert len(rows) == len(folds) == 3 * len(outcome.data["models"])
    column = next(name for name in ("p_tumour", "risk", "predicted") if name in rows[0])
    for row in rows:
        values = [float(own[column]) for own in folds[row["slide_id"], row["model"]]]
        assert len(values) == int(row["folds"]) == 3
        assert float(row[column]) == pytest.approx(np.mean(values), rel=1e-6)
        assert float(row[f"sd_{column.removeprefix('p_')}"]) == pytest.approx(
            np.std(values, ddof=1), rel=1e-4, abs=1e-7
        )
    weights = [float(row["attention"]) for row in read(tmp_path / "out" / "attention" / "s40.csv")]
    assert sum(weights) == pytest.approx(1, abs=1e-5)


def test_folds_that_saw_another_slide_of_a_patient_do_not_count(result: Path, tmp_path: Path) -> None:
    """Slide s40 is of patient p3, whose slide s03 two of three folds were fitted on; s41 is of nobody known."""
    new = cohort(tmp_path / "new", 2, start=40)
    (tmp_path / "labels.csv").write_text("slide_id,patient_id\ns40,p3\ns41,\n")
    outcome = predict(applied(result, tmp_path / "out", new, labels=str(tmp_path / "labels.csv")))
    said = " ".join(outcome.warnings)
    assert "some folds were fitted on other slides of the patients of 1 of these 2 slides, for which only" in said
    assert "the patients of 1 slides are not compared" in said and "'s41'" in said
    before = next(row["fold"] for row in read(result / "predictions.csv") if row["slide_id"] == "s03")
    counted = {
        row["fold"]
        for row in read(tmp_path / "out" / "folds.csv")
        if (row["slide_id"], row["fitted_on"]) == ("s40", "no")
    }
    assert counted == {before}
    assert {row["folds"] for row in read(tmp_path / "out" / "predictions.csv") if row["slide_id"] == "s40"} == {"1"}
    (tmp_path / "bare.csv").write_text("slide_id\ns40\n")
    with pytest.raises(LabelError, match="has no column 'patient_id'"):
        predict(applied(result, tmp_path / "other", new, labels=str(tmp_path / "bare.csv")))


def test_ids_like_those_of_patients_that_were_fitted_on_are_warned_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "labels.csv").open("w") as file:
        file.write("slide_id,label\n")
        for number in range(12):
            slide = f"TCGA-AA-{1000 + number}-01Z"
            write_slide(tmp_path / "features", slide, rng.normal(size=(4, DIM)) + number % 2)
            file.write(f"{slide},{'ab'[number % 2]}\n")
    settings = {**FAST, "models": "mean", "seeds": 1}
    evaluate(
        EvaluateConfig(
            features=str(tmp_path / "features"),
            labels=str(tmp_path / "labels.csv"),
            out=str(tmp_path / "result"),
            **settings,
        )
    )
    for slide in ("TCGA-AA-1000-02A", "TCGA-AA-1001-02A", "TCGA-ZZ-1000-02A"):
        write_slide(tmp_path / "new", slide, rng.normal(size=(4, DIM)))
    told = predict(applied(tmp_path / "result", tmp_path / "out", tmp_path / "new")).warnings
    (look,) = [text for text in told if "look like those of patients" in text]
    assert "ids of 2 slides" in look and "'TCGA-AA-1000-02A', 'TCGA-AA-1001-02A'" in look
    (tmp_path / "patients.csv").write_text("slide_id,patient_id\nTCGA-AA-1000-02A,TCGA-AA-1000\n")
    settings = {"labels": str(tmp_path / "patients.csv")}
    told = predict(applied(tmp_path / "result", tmp_path / "out2", tmp_path / "new", **settings)).warnings
    assert [text for text in told if text.startswith("patients are not compared: the evaluation had no patient_id")]


def test_models_of_all_patients_are_taken_where_there_are_any(classes: Path, tmp_path: Path) -> None:
    new = cohort(tmp_path / "new", 2, start=40)
    assert predict(applied(classes, tmp_path / "all", new)).data["folds"] == ["all"]
    assert read(tmp_path / "all" / "predictions.csv")[0]["sd_tumour"] == ""
    assert predict(applied(classes, tmp_path / "folds", new, use="folds")).data["folds"] == ["1", "2", "3"]
    (warning,) = [text for text in predict(applied(classes, tmp_path / "own")).warnings if "fitted on" in text]
    assert "every model was fitted on 12 of these 12 slides" in warning


def test_again_it_is_there_already_and_other_settings_are_refused(classes: Path, tmp_path: Path) -> None:
    new = cohort(tmp_path / "new", 2, start=40)
    first = predict(applied(classes, tmp_path / "out", new))
    written = (tmp_path / "out" / "run.json").read_bytes()
    assert predict(applied(classes, tmp_path / "out", new)).data == first.data
    assert (tmp_path / "out" / "run.json").read_bytes() == written
    former = tmp_path / "out" / "attention" / "gone.csv"
    former.parent.mkdir(exist_ok=True)
    former.touch()
    with pytest.raises(ConfigError, match="holds a result of other settings: --models"):
        predict(applied(classes, tmp_path / "out", new, models="knn"))
    assert predict(applied(classes, tmp_path / "out", new, models="knn", overwrite=True)).data["models"] == {
        "knn": "Mean pool, weighted kNN"
    }
    assert not former.exists(), "heatmaps of a former result"


def test_peers_features_are_predicted_on(classes: Path, tmp_path: Path) -> None:
    """CLAM's h5_files: features and coords, nothing of the encoder; TRIDENT's tree: features_<encoder>."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, DIM)).astype(np.float32)
    for folder, name in (("clam/h5_files", "a.h5"), ("trident/20x_256px_0px_overlap/features_tiny", "a.h5")):
        (tmp_path / folder).mkdir(parents=True)
        with h5py.File(tmp_path / folder / name, "w") as file:
            file["features"] = features
            file["coords"] = np.arange(10).reshape(5, 2) * 256
    found = []
    for peer in ("clam", "trident"):
        outcome = predict(applied(classes, tmp_path / f"out-{peer}", tmp_path / peer))
        assert [text for text in outcome.warnings if text.startswith("the encoder cannot be compared")]
        found.append(read(tmp_path / f"out-{peer}" / "predictions.csv"))
    assert found[0] == found[1] and {row["slide_id"] for row in found[0]} == {"a"}


SLIDES = Path(__file__).parents[3] / "sample_data" / "slides"


@pytest.mark.parametrize("peer", ["clam", "trident"])
def test_heatmaps_of_peers_features_are_drawn_on_the_slides(result: Path, tmp_path: Path, peer: str) -> None:
    """For classes, values and risks; CLAM's coordinates do not even say how large a patch is."""
    coords = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * 256
    inner = {"clam": "h5_files", "trident": "20x_256px_0px_overlap/features_tiny"}[peer]
    (tmp_path / peer / inner).mkdir(parents=True)
    with h5py.File(tmp_path / peer / inner / "sample_generic_050.h5", "w") as file:
        file["features"] = np.random.default_rng(0).normal(size=(12, DIM)).astype(np.float32)
        file["coords"] = coords
        if peer == "trident":
            file["coords"].attrs["patch_size_level0"] = 256
    outcome = predict(applied(result, tmp_path / "out", tmp_path / peer, slides=str(SLIDES)))
    for folder in ("attention", "scores"):
        assert f"{folder}/sample_generic_050.jpg" in outcome.data["files"]
        rows = read(tmp_path / "out" / folder / "sample_generic_050.csv")
        assert [(row["x"], row["y"]) for row in rows[:2]] == [("0", "0"), ("256", "0")] and len(rows) == 12
    said = {"p_tumour", "p_normal"} if outcome.data["classes"] else {"risk", "predicted"}
    assert said & {*rows[0]}
    page = (tmp_path / "out" / "predictions.html").read_text()
    assert "Score of each patch" in page and "No pictures" not in page
    with pytest.raises(ConfigError, match="--slides .* holds none of the slides"):
        predict(applied(result, tmp_path / "other", slides=str(SLIDES)))


def test_patches_are_predicted_one_by_one_and_painted(tmp_path: Path) -> None:
    features = cohort(tmp_path / "features", labelled=True)
    labels = table(tmp_path / "labels.csv", lambda number: {})
    evaluate(EvaluateConfig(features=str(features), labels=str(labels), out=str(tmp_path / "result"), **FAST))
    outcome = predict(applied(tmp_path / "result", tmp_path / "out", features))
    rows = {(row["slide_id"], row["row"], row["model"]): row for row in read(tmp_path / "out" / "predictions.csv")}
    for row in read(tmp_path / "result" / "predictions.csv"):
        if row["model"] != "majority":
            own = rows[row["slide_id"], row["row"], row["model"]]
            assert float(own["p_tumour"]) == pytest.approx(float(row["p_tumour"]), abs=1e-6)
    assert rows["s00", "1", "linear"]["x"] == "512"
    assert outcome.data["counts"]["slides"] == 12
    assert (tmp_path / "out" / "maps" / "s00.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "predictions.html").read_text()
    legend = re.findall(r'<rect [^>]*fill="(#\w+)"/></svg>(\w+)</li>', page)
    assert legend == list(zip(map(hexadecimal, CLASSES), ("normal", "tumour"), strict=False)), (
        "a swatch and a name for each class"
    )
    assert "below" not in page.partition("No intervals: ")[2].partition("</p>")[0], (
        "this page has no values of patients"
    )
    write_slide(tmp_path / "new", "sample_generic_050", np.zeros((3, DIM)))
    told = predict(applied(tmp_path / "result", tmp_path / "drawn", tmp_path / "new", slides=str(SLIDES)))
    assert "maps/sample_generic_050.jpg" in told.data["files"]
