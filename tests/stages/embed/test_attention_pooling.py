from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy

from sgcl_cli.artefacts.features import open_features
from sgcl_cli.config import EmbedConfig
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError
from sgcl_cli.stages.embed.run import embed
from tests.stages.embed.pooled import HIDDEN, SLIDES, change_card, features_of, keep

Make = Callable[..., Path]


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> EmbedConfig:
    """A finished run."""
    out = str(tmp_path / "features")
    made = EmbedConfig(patches=str(make_patches(slides=SLIDES)), encoder="mean-colour", out=out, threads=1)
    embed(made)
    return made


@pytest.fixture
def result(config: EmbedConfig, tmp_path: Path) -> Path:
    return keep(tmp_path / "result", features_of(config))


def pooled(config: EmbedConfig, by: Path | str) -> EmbedConfig:
    return replace(config, slide_embedding=str(by))


def found(config: EmbedConfig) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the columns, and by slide the vector, of the one table."""
    (path,) = Path(config.out).glob("slides_*.csv")
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header[2:], {row[0]: np.array(row[2:], np.float32) for row in rows}


def by_hand(arrays: dict[str, np.ndarray], at: str, patches: np.ndarray, gated: bool) -> np.ndarray:
    """z = sum_i a_i e_i by plain float64 loops; equations 8 and 9 of Ilse, Tomczak and Welling 2018."""
    weight = {name.removeprefix(at): value.astype(np.float64) for name, value in arrays.items() if name.startswith(at)}
    hidden, scores = [], []
    for x in patches.astype(np.float64):
        e = np.maximum(weight["embed.0.weight"] @ (x * weight["inverse"] + weight["shift"]) + weight["embed.0.bias"], 0)
        v = np.tanh(weight["tanh.0.weight"] @ e + weight["tanh.0.bias"])
        if gated:
            v = v / (1 + np.exp(-(weight["gate.0.weight"] @ e + weight["gate.0.bias"])))
        hidden.append(e)
        scores.append(float(weight["score.weight"][0] @ v + weight["score.bias"][0]))
    shares = np.exp(scores) / np.exp(scores).sum()
    return sum(share * e for share, e in zip(shares, hidden, strict=True))


@pytest.mark.parametrize(
    ("named", "model"), [("", "abmil"), ("models", "abmil"), ("models/gated-abmil.safetensors", "gated-abmil")]
)
def test_a_block_a_fold_and_seed_by_the_equations(config: EmbedConfig, result: Path, named: str, model: str) -> None:
    embed(pooled(config, result / named))
    names, vectors = found(config)
    assert names == [f"{fold}/{seed}/{unit}" for fold in (1, 2) for seed in (0, 1) for unit in range(HIDDEN)]
    arrays = safetensors.numpy.load_file(result / "models" / f"{model}.safetensors")
    for file in open_features(config.out).files:
        wanted = [
            by_hand(arrays, f"{fold}/{seed}/", file.features, model == "gated-abmil")
            for fold in (0, 1)
            for seed in (0, 1)
        ]
        np.testing.assert_allclose(vectors[file.slide_id], np.concatenate(wanted), rtol=1e-5, atol=1e-6)


def test_the_model_of_all_patients_is_used_alone(config: EmbedConfig, tmp_path: Path) -> None:
    result = keep(tmp_path / "refit", features_of(config), ["abmil"], {"1": ["a"], "all": ["b", "z"]})
    outcome = embed(pooled(config, result))
    names, vectors = found(config)
    assert names == [f"all/{seed}/{unit}" for seed in (0, 1) for unit in range(HIDDEN)]
    arrays = safetensors.numpy.load_file(result / "models" / "abmil.safetensors")
    (c,) = (file for file in open_features(config.out).files if file.slide_id == "c")
    np.testing.assert_allclose(vectors["c"][:HIDDEN], by_hand(arrays, "1/0/", c.features, False), rtol=1e-5, atol=1e-6)
    assert any("fitted on 1 of these 3 slides" in text and "'b'" in text for text in outcome.warnings)


def test_slides_that_the_model_was_fitted_on_are_named(config: EmbedConfig, result: Path) -> None:
    outcome = embed(pooled(config, result))
    (warning,) = (text for text in outcome.warnings if "--slide-embedding" in text)
    assert "fitted on 2 of these 3 slides" in warning and "'a', 'b'" in warning
    (path,) = Path(config.out).glob("slides_*.h5ad")
    with h5py.File(path) as data:
        assert data["obs/fitted_on"].asstr()[:].tolist() == ["1", "2", ""]
        assert data["uns/sgcl/model"].asstr()[()] == "abmil" and data["uns/sgcl/result"].asstr()[()] == "id"
    card = json.loads(path.with_suffix(".json").read_text())
    assert len(card["card_sha256"]) == 64 and path.name == f"slides_abmil_{card['model_sha256'][:8]}.h5ad"
    unseen = keep(path.parent.parent / "unseen", features_of(config), ["abmil"], {"1": ["z"], "2": ["z"]})
    assert not [text for text in embed(pooled(config, unseen)).warnings if "--slide-embedding" in text]


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"dim": 4}, "has features of 3 dimensions, the models were fitted on 4"),
    "weights": ({"encoder_sha256": "another"}, "is from another encoder"),
    "feed": ({"encoder_feed": '{"layer": "layer4"}'}, "was embedded with other settings"),
    "resolution": ({"mpp": 1.0}, "the features are at 0.5 µm/px, the models were fitted at 1 µm/px"),
}


@pytest.mark.parametrize(("changes", "said"), OTHERS.values(), ids=OTHERS)
def test_a_model_of_other_features_is_refused(config: EmbedConfig, tmp_path: Path, changes: dict, said: str) -> None:
    result = keep(tmp_path / "other", {**features_of(config), **changes}, ["abmil"])
    fresh = replace(pooled(config, result), out=str(tmp_path / "fresh"))
    with pytest.raises(ConfigError, match=said):
        embed(fresh)
    assert not Path(fresh.out).exists()
    if "mpp" in changes:
        assert [text for text in embed(replace(fresh, allow_mpp=True)).warnings if said in text]


def test_a_result_without_attention(config: EmbedConfig, tmp_path: Path) -> None:
    result = keep(tmp_path / "none", features_of(config), ["mean", "dsmil"])
    with pytest.raises(ArtefactError, match="keeps no attention model of slides"):
        embed(pooled(config, result))
    with pytest.raises(ArtefactError, match="'dsmil' is no attention model"):
        embed(pooled(config, keep(tmp_path / "r", features_of(config)) / "models" / "dsmil.safetensors"))
    with pytest.raises(ArtefactError, match="holds no finished evaluation"):
        embed(pooled(config, config.patches))


def damage(result: Path, name: str, value: np.ndarray | None) -> None:
    path = result / "models" / "abmil.safetensors"
    arrays = {key: array.copy() for key, array in safetensors.numpy.load_file(path).items()}
    arrays.pop(name)
    safetensors.numpy.save_file(arrays if value is None else {**arrays, name: value}, path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda r: (r / "models" / "abmil.safetensors").unlink(), "abmil.safetensors"),
    "no bytes": (lambda r: (r / "models" / "abmil.safetensors").write_bytes(b""), "is damaged"),
    "no array": (lambda r: damage(r, "1/1/shift", None), "ABMIL, fold 2 cannot be applied"),
    "narrow": (lambda r: damage(r, "0/0/inverse", np.ones(2, np.float32)), "ABMIL, fold 1 cannot be applied"),
    "scalar": (lambda r: damage(r, "0/0/shift", np.zeros((), np.float32)), "ABMIL, fold 1 cannot be applied"),
    "not finite": (lambda r: damage(r, "0/0/shift", np.full(3, np.nan, np.float32)), "is not of finite numbers"),
    "card of another kind": (lambda r: (r / "models" / "card.json").write_text("[]"), "is not a card"),
    "card too deep": (lambda r: (r / "models" / "card.json").write_text("[" * 10**5), "card.json"),
    "level of patches": (lambda r: change_card(r, level="patch"), "its view is bags, of a patch"),
}


@pytest.mark.parametrize(("change", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_stops_before_anything_is_embedded(
    config: EmbedConfig, result: Path, tmp_path: Path, change: Callable[[Path], Any], said: str
) -> None:
    change(result)
    fresh = replace(pooled(config, result), out=str(tmp_path / "fresh"))
    with pytest.raises(SgclError, match=said):
        embed(fresh)
    assert not Path(fresh.out).exists()


def test_weights_that_ask_for_more_than_is_stored(config: EmbedConfig, result: Path) -> None:
    card = json.loads((result / "models" / "card.json").read_text())
    for fits in card["models"]["abmil"]["folds"].values():
        fits[0]["settings"]["hidden"] = 60_000
    change_card(result, models=card["models"])
    with pytest.raises(ArtefactError, match="ABMIL, fold 1 cannot be applied"):
        embed(pooled(config, result))


def test_vectors_that_are_not_finite_leave_no_file(config: EmbedConfig, result: Path) -> None:
    damage(result, "0/0/inverse", np.full(3, 1e38, np.float32))
    signs = np.where(np.arange(HIDDEN) % 2, 1, -1)[:, None]
    damage(result, "0/0/embed.0.weight", (signs * np.full((HIDDEN, 3), 3e38)).astype(np.float32))
    with pytest.raises(ArtefactError, match="the slide embedding of a is not finite"):
        embed(pooled(config, result))
    assert not [*Path(config.out).glob("slides_*")] and len(open_features(config.out).files) == 3


def test_a_link_to_a_result_is_followed_from_where_it_points(config: EmbedConfig, result: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(result)
    embed(pooled(config, tmp_path / "link" / "models"))
    assert found(config)[0][0] == "1/0/0"


def test_names_of_folds_that_no_file_can_hold(config: EmbedConfig, tmp_path: Path) -> None:
    result = keep(tmp_path / "forged", features_of(config), ["abmil"], {"\0\n": ["a"], "\ud800": ["a"]})
    embed(pooled(config, result))
    assert found(config)[0][:: 2 * HIDDEN] == ["\\x00\\n/0/0", "\\ud800/0/0"]


def test_a_pipe_in_the_place_of_a_result_or_its_weights(config: EmbedConfig, result: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtefactError, match="pipe holds no finished evaluation"):
        embed(pooled(config, tmp_path / "pipe"))
    weights = result / "models" / "abmil.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ArtefactError, match=r"abmil\.safetensors cannot be read: it is a FIFO"):
        embed(pooled(config, result))
