"""Artefacts of earlier releases (tests/archive) are read by today's readers, and work that they began goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.checkpoint import load_checkpoint, load_encoder
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig, EvaluateConfig, PretrainConfig, TileConfig, differences
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.pretrain import pretrain

ARCHIVE = Path(__file__).parent / "archive" / "artefacts-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive, which no test changes."""
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(folder, filter="data")
    return folder


def test_patches(archive: Path) -> None:
    index = PatchIndex.open(archive / "tiles", pixels=True)
    assert (len(index), index.mpp, index.patch_size) == (76, 5.0, 32)
    assert index.slide_ids == ("slide_001", "slide_002", "slide_003", "slide_004", "slide_007", "slide_008")
    assert index.coords[:2].tolist() == [[320, 0], [960, 0]] and index.grid[:2].tolist() == [[1, 0], [3, 0]]
    file = index.files[0]
    assert file.label is not None and file.label.tolist()[:5] == [-1, 2, 1, 1, 0]
    assert file.label_names == ("carcinoma", "fat", "lymphoid", "stroma")
    assert hashlib.sha256(index.read(0)).hexdigest().startswith("a075b045acab34ac")
    assert index.id == "deae15686753bdda4f9ecd5e2fdd539c"


def test_slides_that_are_tiled_already_are_kept(archive: Path) -> None:
    settings = {"mpp": 5.0, "patch_size": 32, "jpeg_quality": 60, "annotations": "annotations"}
    made = PatchIndex.open(archive / "tiles").files[0].config
    assert differences(made, TileConfig(slides=("in",), out="tiles", **settings).affecting()) == []
    assert differences(made, TileConfig(slides=("in",), out="tiles", **{**settings, "mpp": 4.0}).affecting())


def test_features(archive: Path) -> None:
    features = open_features(archive / "features")
    first = features.files[0]
    assert (len(features.files), features.dim, len(first)) == (6, 512, 13)
    assert first.features[0, :3].tolist() == [0.91796875, 0.33203125, 0.0096435546875]
    assert first.coords is not None and first.coords[:2].tolist() == [[320, 0], [960, 0]]
    assert features.id == "72160837b4b6ae670c294846a275c705"


def test_a_checkpoint_and_an_encoder(archive: Path) -> None:
    assert load_checkpoint(archive / "run" / "last.pt")["patches_id"] == "deae15686753bdda4f9ecd5e2fdd539c"
    for place in ("encoder", "run/last.pt"):
        card, state = load_encoder(archive / place)
        assert (card.name, card.embedding_size, card.input_size, card.mpp) == ("resnet18", 512, 28, 5.0)
        assert state["conv1.weight"].shape == (64, 3, 7, 7)


def test_finished_features_of_the_same_settings_are_kept(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive / "features", tmp_path / "features")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("*.h5")}
    config = {"patches": str(archive / "tiles"), "encoder": str(archive / "encoder"), "device": "cpu", "threads": 1}
    embed(EmbedConfig(out=str(tmp_path / "features"), **config))
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "features").glob("*.h5")}
    embed(EmbedConfig(out=str(tmp_path / "again"), **config))
    for before, now in zip(*(open_features(p).files for p in (archive / "features", tmp_path / "again")), strict=True):
        np.testing.assert_allclose(now.features, before.features, atol=0.01)


def test_results_are_compared(archive: Path, tmp_path: Path) -> None:
    compared = tuple(str(archive / "results" / name) for name in ("a", "b"))
    outcome = evaluate(EvaluateConfig(compare=compared, out=str(tmp_path / "comparison")))
    found = {(row["model"], row["metric"]): row["difference"] for row in outcome.data["differences"]}
    assert found["linear", "auroc"] == pytest.approx(-0.0183417, abs=1e-6)
    assert found["linear", "balanced_accuracy"] == pytest.approx(0.0185847, abs=1e-6)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive / "run", tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    views = {"epochs": 3, "batch": 16, "view": 32, "corner": 16}
    negatives = {"negatives": 16, "negative_law": "beta", "top_share": 0.2}
    settings = {**views, **negatives, "device": "cpu", "threads": 1}
    pretrain(PretrainConfig(patches=str(archive / "tiles"), out=str(tmp_path / "run"), **settings))
    after = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    assert [line["step"] for line in map(json.loads, after) if "lr" in line] == list(range(1, 13))
    assert load_encoder(tmp_path / "run")[0].epochs == 3
