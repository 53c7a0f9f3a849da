"""Models and results that come from elsewhere: one line with the file's name, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from sgcl_cli.artefacts import lock, models
from sgcl_cli.artefacts.model_cards import BAGS
from sgcl_cli.artefacts.models import Fitted, Kept
from sgcl_cli.config import PredictConfig
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError, UnavailableError, WriteError
from sgcl_cli.probe.mil.models import build
from sgcl_cli.stages.predict import predict

DIM, HIDDEN = 4, 3


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A folder as ``sgcl evaluate`` leaves it, of two folds, with a kNN and an attention model."""
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    weights = build("abmil", torch.zeros(DIM), torch.ones(DIM), outputs=2, hidden=HIDDEN, dropout=0.0).state_dict()
    rows = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float32)
    knn = Fitted(
        "knn",
        {"reference_rows": np.arange(6), "labels": np.arange(6) % 2},
        {"k": 3, "temperature": 0.1, "classes": 2},
    )
    abmil = Fitted(
        BAGS,
        {name: value.numpy() for name, value in weights.items()},
        {"model": "abmil", "hidden": HIDDEN, "dropout": 0.0, "outputs": 2, "classes": True},
    )
    card: dict[str, Any] = {
        "result": "id", "level": "slide", "task": "binary", "target": "label", "classes": ["normal", "tumour"],
        "confidence": 0.95, "attention_model": "abmil", "features": {"dim": DIM},
        "folds": {fold: {"slides": [], "identities": [], "patients": []} for fold in ("1", "2")},
        "scores": {key: {"name": key, "metrics": {"auroc": {"value": 0.5}}} for key in ("knn", "abmil")},
    }  # fmt: skip
    kept = {
        "knn": Kept("kNN", "mean", {"1": [knn], "2": [knn]}, rows),
        "abmil": Kept("ABMIL", BAGS, {"1": [abmil], "2": [abmil]}),
    }
    models.write(folder / "models", card, kept)
    return folder


@pytest.fixture
def config(result: Path, tmp_path: Path) -> PredictConfig:
    (tmp_path / "features").mkdir()
    for name in ("a", "b"):
        with h5py.File(tmp_path / "features" / f"{name}.h5", "w") as file:
            file["features"] = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
            file["coords"] = np.arange(10).reshape(5, 2)
    given = {"result": str(result), "features": str(tmp_path / "features"), "out": str(tmp_path / "out")}
    return PredictConfig(**given, device="cpu", threads=1)


def refused(config: PredictConfig, kind: type[SgclError] = ArtefactError, said: str = "") -> SgclError:
    before = sorted(Path(config.out).parent.rglob("*"))
    with pytest.raises(kind, match=said) as caught:
        predict(config)
    assert sorted(Path(config.out).parent.rglob("*")) == before
    assert caught.value.hint
    return caught.value


def arrays_of(result: Path, key: str) -> dict[str, np.ndarray]:
    return safetensors.numpy.load((result / "models" / f"{key}.safetensors").read_bytes())


def keep(result: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(arrays, result / "models" / f"{key}.safetensors")


def test_the_whole_result_is_applied(config: PredictConfig) -> None:
    assert predict(config).data["counts"] == {"rows": 2, "slides": 2}
    assert (Path(config.out) / "attention" / "a.csv").is_file()


CHANGES: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], Any], str]] = {
    "absent": ("abmil", lambda a: a.pop("1/0/classify.weight"), "not the weights of the network"),
    "narrow": ("abmil", lambda a: a.update({"0/0/shift": np.zeros(2, np.float32)}), "not the weights"),
    "scalar": ("abmil", lambda a: a.update({"0/0/shift": np.zeros((), np.float32)}), "cannot be applied"),
    "none": ("abmil", lambda a: a.clear(), "cannot be applied"),
    "nan": ("abmil", lambda a: a["0/0/shift"].fill(np.nan), "'0/0/shift' is not of finite numbers"),
    "huge": ("abmil", lambda a: a["0/0/embed.0.weight"].fill(3e38), "predictions are not finite"),
    "rows beyond": ("knn", lambda a: a["0/0/reference_rows"].fill(6), "has an unexpected content"),
    "rows repeated": ("knn", lambda a: a.update({"0/0/reference_rows": np.zeros(7, np.int64)}), "7 reference rows among 6"),
    "rows of reals": ("knn", lambda a: a.update({"0/0/reference_rows": np.zeros(3)}), "has an unexpected content"),
    "reference": ("knn", lambda a: a.update({"reference": np.zeros((6, DIM + 1), np.float32)}), "cannot be applied"),
    "flat": ("knn", lambda a: a.update({"reference": np.zeros(6, np.float32)}), "cannot be applied"),
    "labels": ("knn", lambda a: a["1/0/labels"].fill(7), "predictions are not finite"),
}  # fmt: skip


@pytest.mark.parametrize(("key", "change", "said"), CHANGES.values(), ids=CHANGES)
def test_arrays_that_are_not_those_of_the_model(
    config: PredictConfig, key: str, change: Callable[[dict[str, np.ndarray]], Any], said: str
) -> None:
    arrays = {name: array.copy() for name, array in arrays_of(Path(config.result), key).items()}
    change(arrays)
    keep(Path(config.result), key, arrays)
    refused(config, said=said)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", 60_000), ("outputs", 60_000), ("hidden", HIDDEN + 1), ("model", "x"), ("model", "mean")],
)
def test_settings_that_ask_for_more_than_is_stored(config: PredictConfig, name: str, value: object) -> None:
    path = Path(config.result) / "models" / "card.json"
    card = json.loads(path.read_text())
    for fits in card["models"]["abmil"]["folds"].values():
        fits[0]["settings"][name] = value
    path.write_text(json.dumps(card))
    refused(config, said="the model ABMIL, fold 1 cannot be applied")


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0" + b"[" * 16])
def test_a_file_of_models_that_is_none(config: PredictConfig, data: bytes) -> None:
    (Path(config.result) / "models" / "knn.safetensors").write_bytes(data)
    refused(config, said=r"knn\.safetensors is damaged")


def test_a_file_of_models_that_cannot_be_read_now(config: PredictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", busy)
    error = refused(config, UnavailableError, "the disk reports an input/output error")
    assert "overwrite" not in error.hint


@pytest.mark.parametrize(
    "content", [[], {"counts": 5}, {"counts": {"slides": 1}, "level": "slide", "predicted": {"knn": 1}}]
)
def test_an_output_whose_record_is_something_else(config: PredictConfig, content: object) -> None:
    out = Path(config.out)
    predict(config)
    run = json.loads((out / "run.json").read_text())
    run["result"] = {**content, "files": [], "warnings": []} if isinstance(content, dict) else content
    (out / "run.json").write_text(json.dumps(run))
    refused(config, said=r"run\.json")


@pytest.mark.parametrize("dry", [False, True])
def test_the_second_of_two_at_once_is_refused(config: PredictConfig, dry: bool) -> None:
    with lock.alone(Path(config.out)):
        given = {**config.as_dict(), "dry_run": dry}
        if dry:
            assert predict(PredictConfig(**given)).total == 2
        else:
            refused(PredictConfig(**given), said="another run writes to .*out: process")


@pytest.mark.parametrize("name", ["predictions.csv", "folds.csv", "predictions.html"])
def test_a_disk_that_is_full_leaves_no_record(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = Path.write_text

    def write(path: Path, *words: Any, **more: Any) -> int:
        if name in path.name:
            raise OSError(28, "No space left on device")
        return real(path, *words, **more)

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(WriteError, match=f"the disk is full while writing .*{name}"):
        predict(config)
    assert not (Path(config.out) / "run.json").exists() and not (Path(config.out) / name).exists()
    monkeypatch.undo()
    predict(config)
    assert (Path(config.out) / "run.json").exists()


@pytest.mark.parametrize("feed", ["nonsense", '{"layer": "layer3"}', "[1]", "9" * 5000])
def test_features_embedded_in_a_way_that_is_no_table(config: PredictConfig, feed: str) -> None:
    path = Path(config.result) / "models" / "card.json"
    card = json.loads(path.read_text())
    card["features"]["encoder_feed"] = '{"layer": "layer4"}'
    path.write_text(json.dumps(card))
    with h5py.File(Path(config.features) / "a.h5", "r+") as file:
        file.attrs["encoder_feed"] = feed
    (Path(config.features) / "b.h5").unlink()
    refused(config, ConfigError, "was embedded with other settings")
