"""Fine-tuning beside frozen features, on patches whose class is the size of their grains."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sgcl_cli.artefacts.checkpoint import load_encoder
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.progress import Silent
from sgcl_cli.stages.evaluate import cache, evaluate
from sgcl_cli.stages.evaluate.finetune import Tuner
from tests.stages.evaluate.tuned import (
    SIDE,
    SLIDES,
    VIEW,
    card_of,
    metrics,
    move_to,
    one_to_fit_on,
    rows_of,
    settings,
    turn_labels,
    write_features,
)

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the plain command; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    evaluate(settings(data, out))
    return out


def test_networks_learn_from_pixels_what_the_features_do_not_hold(finished: Path) -> None:
    models = metrics(finished)["models"]
    assert list(models) == ["majority", "linear", "knn", "simpleshot", "finetune", "scratch"]
    auroc = {key: model["metrics"]["auroc"]["value"] for key, model in models.items()}
    assert auroc["finetune"] > 0.85 and auroc["scratch"] > 0.85
    assert auroc["linear"] < 0.7
    (fit,) = models["finetune"]["fits"].values()
    assert fit["lr"][0] in (0.01, 0.1) and 1 <= fit["best_epochs"][0] <= 5
    losses = fit["validation_losses"][0]
    assert fit["lr"][0] == float(min(losses, key=losses.__getitem__))


def test_its_rows_stand_with_the_others(finished: Path) -> None:
    result = metrics(finished)
    predictions = [row for row in rows_of(finished / "predictions.csv") if row["model"] == "finetune"]
    assert len(predictions) == 8 * 8
    assert all(abs(float(row["p_fine"]) + float(row["p_coarse"]) - 1) < 1e-6 for row in predictions)
    headline = result["models"]["finetune"]["metrics"]["auroc"]
    table = {(row["model"], row["metric"], row["scope"]): row for row in rows_of(finished / "metrics.csv")}
    whole = table["finetune", "auroc", "100 % of the patients"]
    for name, value in whole.items():
        if name in ("value", "low", "high"):
            assert float(value) == pytest.approx(headline[name]) if value else headline[name] is None
    assert "50 % of the patients" in {scope for key, _, scope in table if key == "scratch"}
    page = (finished / "report.html").read_text()
    for said in ("Fine-tuned tiny", "tiny from scratch", "Label efficiency", "5 epochs of SGD with momentum"):
        assert said in page


def test_shares_are_repeated_and_every_model_has_them(finished: Path) -> None:
    found = metrics(finished)["label_efficiency"]
    assert set(found["curves"]) == {"linear", "knn", "simpleshot", "finetune", "scratch"}
    for curve in found["curves"].values():
        assert {share: len(values) for share, values in curve.items()} == {"0.5": 5, "1": 1}
    assert len(set(found["curves"]["finetune"]["0.5"])) > 1


def test_again_takes_every_fit_and_changes_nothing(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "run.json").unlink()
    monkeypatch.setattr(Tuner, "_trial", lambda *_: pytest.fail("fitted again"))
    notes: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "note", notes.append)
    evaluate(settings(data, out), reporter)
    assert "28 of 28 fits were read from the cache" in notes
    for name in ("metrics.json", "predictions.csv", "metrics.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_interrupted_and_run_again_is_the_same_as_not_interrupted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"finetune_shares": "100", "finetune_epochs": 2}
    whole = metrics_after(settings(data, tmp_path / "whole", **few))
    trials: list[float] = []
    trial = Tuner._trial

    def counted(self, key, name, lr, seed, fold):
        trials.append(lr)
        if len(trials) == 3:
            raise KeyboardInterrupt
        return trial(self, key, name, lr, seed, fold)

    monkeypatch.setattr(Tuner, "_trial", counted)
    config = settings(data, tmp_path / "out", **few)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config)
    assert not (tmp_path / "out/run.json").exists()
    assert metrics_after(config) == whole
    assert trials == [0.01, 0.1, 0.01, 0.01, 0.1], "two of four trials were kept"
    evaluate(dataclasses.replace(config, finetune_lr="0.1,0.05", overwrite=True))
    assert trials[5:] == [0.05, 0.05], "another rate refits only itself"


def metrics_after(config: EvaluateConfig) -> dict[str, Any]:
    evaluate(config)
    return metrics(Path(config.out))


def test_shuffled_test_labels_leave_every_fitted_number_unchanged(data: Path, tmp_path: Path) -> None:
    told = []
    for name in ("as they are", "turned"):
        folder = shutil.copytree(data / "features", tmp_path / name)
        if name == "turned":
            for slide in list(SLIDES)[16:]:
                turn_labels(folder / f"{slide}.h5")
        for path in folder.glob("*.h5"):
            move_to(path, data / "tiles/patches")
        config = settings(
            data, tmp_path / f"out {name}", features=str(folder), finetune_shares="100", finetune_epochs=2
        )
        result = metrics_after(config)
        predictions = rows_of(tmp_path / f"out {name}/predictions.csv")
        numbers = [(row["slide_id"], row["row"], row["model"], row["p_fine"]) for row in predictions]
        fits = [model["fits"] for model in result["models"].values()]
        told.append((numbers, fits, result["models"]["finetune"]["metrics"]["auroc"]["value"]))
    assert told[0][:2] == told[1][:2]
    assert told[0][2] == pytest.approx(1 - told[1][2])


def test_folds_without_validation_take_the_lowest_rate_and_the_last_epoch(data: Path, tmp_path: Path) -> None:
    table = str(one_to_fit_on(tmp_path))
    config = settings(data, tmp_path / "out", labels=table, finetune_epochs=2, finetune_shares="1,100")
    result = metrics_after(config)
    assert result["models"]["finetune"]["fits"]["test"] == {
        "lr": [0.01],
        "best_epochs": [2],
        "validation_losses": [{"0.01": None, "0.1": None}],
    }
    assert result["label_efficiency"]["left_out"] == [
        "1 % of the patients is left out: fold test: 0.01 of 1 patients includes no patient of class 'coarse'"
    ]


def test_without_the_whole_share_there_is_a_curve_and_no_row(data: Path, tmp_path: Path) -> None:
    config = settings(data, tmp_path / "out", finetune_shares="50", finetune_epochs=1, finetune_lr="0.1")
    outcome = evaluate(config)
    assert "finetune" not in outcome.data["models"]
    assert list(outcome.data["label_efficiency"]["curves"]["finetune"]) == ["0.5"]
    (shares,) = outcome.further
    assert shares.corner == "AUROC" and "50 % of the patients" in shares.columns
    assert "Fine-tuned tiny" in dict(shares.rows)


def test_a_dry_run_says_what_it_takes_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    outcome = evaluate(settings(data, tmp_path / "out", dry_run=True))
    assert not (tmp_path / "out").exists()
    assert 0 < outcome.data["expected_seconds_finetune"] <= outcome.data["expected_seconds"]
    told = dict(outcome.headline)
    assert told["fine-tuning"] == "tiny on 50, 100 % of the fitted patients"
    assert told["of it fine-tuning"] == "under a minute"


def test_one_network_begins_with_the_runs_weights_and_the_other_does_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tuner,) = tuners(settings(data, tmp_path / "out"), monkeypatch)
    fold = Fold("test", np.arange(40), np.arange(40, 60), np.arange(60, 80))
    run = load_encoder(data / "run")[1]
    begun = {key: tuner._begin(key, 0.1, 0, fold, lambda: None)[0].model.encoder.state_dict() for key in tuner.starts}
    assert all(torch.equal(begun["finetune"][name], value) for name, value in run.items())
    assert not torch.equal(begun["scratch"]["layers.0.weight"], run["layers.0.weight"])


def tuners(config: EvaluateConfig, monkeypatch: pytest.MonkeyPatch) -> list[Tuner]:
    """What an evaluation makes to fit networks with; it fits none."""
    seen: list[Tuner] = []
    monkeypatch.setattr(Tuner, "models", lambda self: seen.append(self) or [])
    evaluate(config)
    return seen


def test_images_are_found_by_their_folders_id_and_their_names(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        for number in range(24):
            path = tmp_path / side / ("fine", "coarse")[number % 2] / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(path)
        images = ImageFolder.open(tmp_path / side, crop=VIEW)
        columns = {"name": [*images.names[::-1]], "label": images.label[::-1]}
        (tmp_path / f"features-{side}").mkdir()
        where = {"patches_id": images.id, "patches_path": f"../{side}"}
        write_features(tmp_path / f"features-{side}/{side}.h5", card_of(data), columns, images.label_names, **where)
    pair = {"train": str(tmp_path / "features-train"), "test": str(tmp_path / "features-test")}
    config = settings(data, tmp_path / "out", features=None, labels=None, **pair)
    (tuner,) = tuners(config, monkeypatch)
    source, cohort = tuner.source, tuner.cohort
    pixels = np.empty((VIEW, VIEW, 3), np.uint8)
    for i in range(len(cohort)):
        source.into(i, pixels)
        images = ImageFolder.open(tmp_path / str(cohort.slide_id[i]), crop=VIEW)
        place = images.names[::-1][cohort.row[i]]
        np.testing.assert_array_equal(pixels, images.read(images.names.index(place)))
        assert cohort.classes[cohort.label[i]] == Path(place).parent.name
    os.utime(tmp_path / "test/fine/00.png", (0, 0))
    with pytest.raises(ConfigError, match="the patches of test.h5 are not at ../test, or have changed"):
        evaluate(dataclasses.replace(config, out=str(tmp_path / "other")))


def test_images_with_groups_are_found_where_one_of_them_could_not_be_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "images" / ("fine", "coarse")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(path)
    (tmp_path / "images/fine/00.png").write_bytes(b"no image")
    plain = ImageFolder.open(tmp_path / "images", crop=VIEW)
    names, groups = plain.names, tuple(f"p{number % 8}" for number in range(24))
    kept = [number for number, name in enumerate(names) if name != "fine/00.png"]
    columns = {"name": [names[n] for n in kept], "group": [groups[n] for n in kept], "label": plain.label[kept]}
    where = {
        "patches_id": dataclasses.replace(plain, groups=groups).id,
        "source_identity": plain.id,
        "patches_path": "../images",
    }
    (tmp_path / "features").mkdir()
    write_features(tmp_path / "features/images.h5", card_of(data), columns, plain.label_names, **where)
    config = settings(data, tmp_path / "out", features=str(tmp_path / "features"), labels=None, folds=2)
    (tuner,) = tuners(config, monkeypatch)
    pixels = np.empty((VIEW, VIEW, 3), np.uint8)
    tuner.source.into(0, pixels)
    assert len(tuner.cohort) == 23 and tuner.cohort.patients == 8
    (file,) = tuner.source.files
    assert isinstance(file, ImageFolder) and tuner.source.row.tolist() == kept


def test_the_papers_protocol_sets_what_it_says_and_flags_win(data: Path, tmp_path: Path) -> None:
    inputs = {name: str(data / name) for name in ("features",)}
    config = EvaluateConfig.resolve({"protocol": "sgcl"}, {**inputs, "out": "o", "linear-lr": 0.1})
    found = {name: getattr(config, name) for name in EvaluateConfig.recipes["sgcl"]}
    assert found == {
        "linear": "sgd",
        "linear_epochs": 100,
        "linear_lr": 0.1,
        "knn_temperature": 0.07,
        "finetune_epochs": 20,
        "finetune_shares": "1,10",
    }
    assert config.tuned_shares == (0.01, 0.1)
    assert "--protocol sgcl --linear sgd --linear-lr 0.1" in config.command_line()
    plain = EvaluateConfig.resolve({**inputs, "out": "o"})
    assert (plain.linear, plain.tuned_shares) == ("path", (0.01, 0.1, 1.0))
    by_flags = EvaluateConfig.resolve({**inputs, "out": "o", "linear": "sgd", "finetune_shares": "1,10"})
    assert by_flags.affecting() == EvaluateConfig.resolve({**inputs, "out": "o", "protocol": "sgcl"}).affecting()


def test_the_report_says_what_the_protocol_set(data: Path, tmp_path: Path) -> None:
    layers = {"features": str(data / "features"), "labels": str(data / "labels.csv"), "out": str(tmp_path / "out")}
    config = EvaluateConfig.resolve({**layers, "protocol": "sgcl", "linear_epochs": 3, "threads": 1, "bootstrap": 0})
    reporter = Silent()
    result = evaluate(config, reporter).data
    assert result["protocol"]["preset"] == "sgcl" and result["protocol"]["linear"] == "sgd"
    page = (tmp_path / "out/report.html").read_text()
    assert "Linear layer by SGD" in page and "3 epochs of SGD at 0.03, a tenth of it after 60 %" in page
    assert "--linear sgd --linear-lr 0.03 --knn-temperature 0.07 --finetune-epochs 20 --finetune-shares 1,10" in page
    assert "label_efficiency" not in result, "there is nothing to fine-tune"


def test_trials_are_kept_one_by_one(finished: Path) -> None:
    trials = 2 * 2 * (5 + 1)  # networks, rates, points
    others = 4  # majority, linear, knn, simpleshot
    assert len(list((finished / cache.FOLDER).iterdir())) == trials + others
