from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts import store
from sgcl_cli.cli.options import repeated
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.probe.scores import comparison, metrics
from sgcl_cli.stages.evaluate import evaluate

CLASSES = ("Normal", "=Tumour<script>")
ROWS = 48


def write_result(
    folder: Path,
    noise: float,
    *,
    moved: bool = False,
    rows: int = ROWS,
    task: str = "binary",
    keys: tuple[str, ...] = ("majority", "patch-count", "linear"),
    warnings: tuple[str, ...] = (),
) -> Path:
    """A finished evaluation of one slide a patient in two folds, whose scores are the truth and noise."""
    rng = np.random.default_rng(7)
    truth = np.arange(rows) % 2
    score = truth + rng.normal(size=rows) + noise * np.random.default_rng(int(noise * 100)).normal(size=rows)
    fold = [str(number // 2 % 2 + 1) for number in range(rows)]
    if moved:
        fold[4] = {"1": "2", "2": "1"}[fold[4]]
    names = [f"{number:03d}" for number in range(rows)]
    store.write_json(
        folder / "metrics.json",
        {
            "level": "slide",
            "task": task,
            "classes": list(CLASSES) if task == "binary" else [],
            "counts": {"slides": rows, "patients": rows, "folds": 2},
            "models": {key: {"name": key.title()} for key in keys},
        },
    )
    target = {
        "binary": lambda i: {
            "label": CLASSES[truth[i]],
            f"p_{CLASSES[0]}": f"{-score[i]:.8g}",
            f"p_{CLASSES[1]}": f"{score[i]:.8g}",
        },
        "regression": lambda i: {"label": f"{truth[i] + 0.01 * i}", "predicted": f"{score[i]:.8g}"},
        "survival": lambda i: {
            "time": f"{5 - truth[i] - 0.01 * i}",
            "event": str(1 - i % 3 // 2),
            "risk": f"{score[i]:.8g}",
        },
    }[task]
    predictions = [
        {"slide_id": names[i], "patient_id": f"p{names[i]}", "fold": fold[i], "model": key, **target(i)}
        for key in keys
        for i in np.random.default_rng(len(folder.name)).permutation(rows).tolist()
    ]
    store.write_csv(folder / "predictions.csv", list(predictions[0]), predictions)
    splits = [
        {"slide_id": name, "patient_id": f"p{name}", "fold": one, "split": "test" if fold[i] == one else "train"}
        for i, name in enumerate(names)
        for one in ("1", "2")
    ]
    store.write_csv(folder / "splits.csv", list(splits[0]), splits)
    findings = [{"level": "warning", "code": "x", "message": message} for message in warnings]
    findings.append({"level": "error", "code": "y", "message": "not a warning"})
    store.write_json(folder / "audit.json", {"findings": findings})
    store.write_json(folder / "run.json", {"stage": "evaluate", "id": f"id of {folder.name}"})
    return folder


def run(out: Path, *folders: Path, **settings):
    return evaluate(EvaluateConfig(compare=tuple(map(str, folders)), out=str(out), bootstrap=200, **settings))


def test_the_table_says_what_the_pure_function_says(tmp_path: Path) -> None:
    folders = [write_result(tmp_path / name, noise) for name, noise in (("a", 0.1), ("b", 0.2), ("worse", 3))]
    outcome = run(tmp_path / "out", *folders)
    with (tmp_path / "out/compare.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "auroc"]
    assert [(row["model"], row["first"], row["second"]) for row in rows] == [
        ("linear", "a", "b"),
        ("linear", "a", "worse"),
        ("linear", "b", "worse"),
    ]
    assert float(rows[1]["difference"]) > 0 and float(rows[1]["low"]) > 0 and float(rows[1]["p_holm"]) < 0.05
    p, adjusted = ([float(row[name]) for row in rows] for name in ("p", "p_holm"))
    assert adjusted == pytest.approx(comparison.holm(p))
    content = json.loads((tmp_path / "out/compare.json").read_text())
    by_hand = next(row for row in content["differences"] if row["metric"] == "auroc")
    areas = []
    for folder in folders[:2]:
        scores = {
            row["slide_id"]: row for row in store.read_csv(folder / "predictions.csv") if row["model"] == "linear"
        }
        areas.append(
            np.mean(
                [
                    metrics.score(
                        "auroc",
                        np.array([int(name) % 2 for name in mine]),
                        np.array([[float(scores[name][f"p_{c}"]) for c in CLASSES] for name in mine]),
                        CLASSES,
                    ).value
                    for mine in ([n for n in scores if scores[n]["fold"] == f] for f in ("1", "2"))
                ]
            )
        )
    assert by_hand["difference"] == pytest.approx(areas[0] - areas[1]), "the first less the second, in the order asked"
    assert (
        content["answers"]
        == [text for name, text in outcome.headline if name == "answer"]
        == [
            "By AUROC, the difference between a and b is not significant with “Linear”.",
            "By AUROC, a is better than worse with “Linear”.",
            "By AUROC, b is better than worse with “Linear”.",
        ]
    )
    assert outcome.matrix.columns == ["AUROC", "Balanced accuracy", "Macro F1"]
    assert outcome.matrix.rows[0][0] == "Linear\na - b"
    assert outcome.matrix.rows[0][1][0].startswith(f"{areas[0] - areas[1]:+.3f}\n")
    assert {row["model"] for row in content["differences"]} == {"linear"}, "neither class shares nor patch counts"


def test_the_page_has_the_numbers_and_escapes_names(tmp_path: Path) -> None:
    one = write_result(tmp_path / "x" / "<b>evil", 0.1)
    other = write_result(tmp_path / "y" / "<b>evil", 2)
    run(tmp_path / "out", one, other)
    text = (tmp_path / "out/compare.html").read_text()
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert "<b>evil" not in text and "x/&lt;b&gt;evil" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    value = next(row["difference"] for row in content["differences"] if row["metric"] == "auroc")
    assert f"{value:+.3f}" in text


@pytest.mark.parametrize("name", [os.fsdecode(b"b\xe9d"), "$\\frac{$", "a\nb\x1b[2J"])
def test_folders_of_odd_names_are_compared(tmp_path: Path, name: str) -> None:
    run(tmp_path / "out", write_result(tmp_path / name, 0.1), write_result(tmp_path / "b", 2))
    named = json.loads((tmp_path / "out/compare.json").read_text())["results"][0]["name"]
    assert named == ("b\\udce9d" if name.startswith("b") else name)
    assert list((tmp_path / "out/figures").glob("*.png"))


def test_other_splits_are_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    one, moved = write_result(tmp_path / "a", 0.1), write_result(tmp_path / "b", 0.1, moved=True)
    with pytest.raises(
        LabelError, match="have different splits .*1 slides are divided differently, first '004'"
    ) as caught:
        run(tmp_path / "out", one, moved)
    assert caught.value.exit_code == 2
    fewer = write_result(tmp_path / "c", 0.1, rows=46)
    with pytest.raises(LabelError, match="2 slides are divided differently, first '046' .* in fold 1 .* and absent"):
        run(tmp_path / "out", one, fewer)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("task", "metric"), [("regression", "spearman"), ("survival", "c_index")])
def test_other_tasks_are_compared_too(tmp_path: Path, task: str, metric: str) -> None:
    one, other = (write_result(tmp_path / name, noise, task=task) for name, noise in (("a", 0.1), ("b", 4)))
    run(tmp_path / "out", one, other)
    rows = json.loads((tmp_path / "out/compare.json").read_text())["differences"]
    found = next(row for row in rows if row["metric"] == metric)
    assert found["difference"] > 0 and found["low"] is not None


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = write_result(tmp_path / "a", 0.1)
    with pytest.raises(ConfigError, match="two results or more"):
        run(tmp_path / "out", one)
    with pytest.raises(ConfigError, match="names a folder twice"):
        run(tmp_path / "out", one, one)
    with pytest.raises(ArtefactError, match="no finished evaluation"):
        run(tmp_path / "out", one, tmp_path)
    with pytest.raises(ConfigError, match="takes only finished evaluations"):
        EvaluateConfig(compare=("a", "b"), features="f", out="o")
    other = write_result(tmp_path / "b", 0.2)
    with pytest.raises(ConfigError, match="holds the output of sgcl evaluate"):
        run(one, one, other)
    with pytest.raises(LabelError, match="differ in task: binary and survival"):
        run(tmp_path / "out", one, write_result(tmp_path / "s", 0.1, task="survival"))


def test_folders_follow_the_option_one_after_another() -> None:
    given = ["evaluate", "--compare", "a", "b", "--out", "c", "--compare", "d"]
    assert repeated(given, "--compare") == [*given[:3], "--compare", "b", "--out", "c", "--compare", "d"]
    command = EvaluateConfig(compare=("a b", "c"), out="o").command_line()
    assert command == "sgcl evaluate --out o --compare 'a b' c"


def test_holm_counts_models_as_well_as_pairs(tmp_path: Path) -> None:
    keys = ("linear", "knn", "simpleshot")
    folders = [write_result(tmp_path / name, noise, keys=keys) for name, noise in (("a", 0.1), ("b", 2))]
    run(tmp_path / "out", *folders)
    rows = json.loads((tmp_path / "out/compare.json").read_text())["differences"]
    of_metric = [row for row in rows if row["metric"] == "auroc"]
    assert [row["p_holm"] for row in of_metric] == pytest.approx(comparison.holm([row["p"] for row in of_metric]))
    assert of_metric[0]["p_holm"] == pytest.approx(3 * of_metric[0]["p"])


def test_the_warnings_of_all_results_are_said_before_the_numbers(tmp_path: Path) -> None:
    both, own = "no patient_id <b>", "transductive: 3 slides"
    one = write_result(tmp_path / "a", 0.1, warnings=(both,))
    other = write_result(tmp_path / "b", 0.2, warnings=(both, own))
    outcome = run(tmp_path / "out", one, other)
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert content["warnings"][:2] == [f"all results: {both}", f"b: {own}"]
    assert "one training of its encoder" in content["warnings"][2]
    assert outcome.as_dict()["warnings"] == content["warnings"]
    page = (tmp_path / "out/compare.html").read_text()
    assert page.index("no patient_id &lt;b&gt;") < page.index("transductive") < page.index("<h2>AUROC</h2>")


def test_p_is_not_said_below_what_the_resamples_can_tell(tmp_path: Path) -> None:
    one, other = write_result(tmp_path / "a", 0.01, rows=200), write_result(tmp_path / "b", 9, rows=200)
    outcome = run(tmp_path / "out", one, other)
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert content["differences"][0]["p"] == content["least_p"] == 1 / 201
    assert outcome.matrix.rows[0][1][0].endswith("Holm p < 0.005")
    assert "&lt; 1/201" in (tmp_path / "out/compare.html").read_text()


def test_a_missing_interval_is_explained_and_the_forest_is_drawn(tmp_path: Path) -> None:
    outcome = run(
        tmp_path / "out", *(write_result(tmp_path / name, noise, rows=8) for name, noise in (("a", 0), ("b", 2)))
    )
    reason = "8 patients, fewer than 10"
    assert outcome.headline[0][1] == f"By AUROC, the difference has no interval with “Linear” ({reason})."
    assert outcome.matrix.rows[0][1][0].endswith("[1]") and outcome.matrix.notes == [f"[1] no interval: {reason}"]
    page = (tmp_path / "out/compare.html").read_text()
    assert page.count(f"no interval: {reason}") == 4
    assert (tmp_path / "out/figures/forest.svg").read_bytes().startswith(b"<?xml")
