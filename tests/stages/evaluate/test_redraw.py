from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.probe.models import linear
from sgcl_cli.progress import Silent
from sgcl_cli.report import evaluation
from sgcl_cli.stages.evaluate import attention, evaluate, fitting, report

SLIDES = [f"{number:03d}" for number in range(8)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two C and no figures but those of attention; patches know their slide's size, as those of sgcl tile do."""
    monkeypatch.setattr(linear, "C_PATH", (0.01, 1.0))
    monkeypatch.setattr(evaluation, "pictures", lambda drawn: {})
    monkeypatch.setattr(report, "_map", lambda finished: {})
    opened = PatchFile.open

    def sized(path: Path) -> PatchFile:
        file = opened(path)
        file.geometry.update(level0_width=96, level0_height=64)
        return file

    monkeypatch.setattr(attention.PatchFile, "open", staticmethod(sized))


@pytest.fixture
def place(tmp_path: Path, make_patches: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: tiles/ with thumbnails, features/ that do not find them, labels.csv."""
    tiles = make_patches(slides=dict.fromkeys(SLIDES, (3, 2)))
    (tiles / "thumbnails").mkdir()
    grey = simplejpeg.encode_jpeg(np.full((64, 96, 3), 220, np.uint8))
    (tmp_path / "features").mkdir()
    with (tmp_path / "labels.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["slide_id", "label"])
        for number, slide_id in enumerate(SLIDES):
            rows.writerow([slide_id, "ab"[number % 2]])
            (tiles / "thumbnails" / f"{slide_id}.jpg").write_bytes(grey)
            patches = PatchFile.open(tiles / "patches" / f"{slide_id}.h5")
            features = np.random.default_rng(number).normal(size=(len(patches), 4)) + 2 * (number % 2)
            with FeatureWriter(tmp_path / "features" / f"{slide_id}.h5", slide_id, 4, "float32") as writer:
                writer.append(features)
                writer.finish(
                    {"coords": patches.coords, "grid": patches.grid},
                    {
                        "slide_id": slide_id,
                        "encoder": "tiny",
                        "encoder_sha256": "e",
                        "config": "{}",
                        "patches_id": patches.id,
                        "patches_path": "../gone.h5",
                    },
                )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(out: str, **settings: object) -> list[str]:
    fast = {"mil_epochs": 2, "seeds": 1, "bootstrap": 20, "mil_hidden": 4, "threads": 1, "device": "cpu", "folds": 2}
    config = EvaluateConfig(features="features", labels="labels.csv", out=out, **{**fast, **settings})
    files: list[str] = evaluate(config).data["files"]
    return files


def content(out: Path) -> dict[str, bytes]:
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "run.json"}
    files["report.html"] = files["report.html"].replace(b"--out later", b"--out at-once")
    return files


def test_patches_given_later_give_the_pictures_without_another_fit(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("at-once", patches="tiles")
    bare = run("later")
    assert not any(name.endswith(".jpg") for name in bare)
    assert "No pictures of 8 of 8 slides" in (place / "later/report.html").read_text()
    monkeypatch.setattr(fitting, "suite", lambda *_: pytest.fail("fitted again"))
    monkeypatch.setattr(fitting, "Scorer", lambda *_: pytest.fail("scored again"))
    notes: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda reporter, text: notes.append(text))
    drawn = run("later", patches="tiles")
    assert "only its pictures are drawn" in notes[-1]
    assert {*drawn} - {*bare} == {
        *(f"{kind}/{slide_id}.jpg" for kind in ("attention", "scores") for slide_id in SLIDES),
        *("figures/montage_1.jpg", "figures/montage_2.jpg"),
    }
    assert content(place / "later") == content(place / "at-once")
    recorded = json.loads((place / "later/run.json").read_text())
    assert (recorded["config"]["patches"], recorded["result"]["files"]) == ("tiles", drawn)
    monkeypatch.setattr(report, "write_report", lambda *_: pytest.fail("drawn twice"))
    assert run("later", patches="tiles") == drawn
    assert run("later") == drawn


def test_a_wrong_folder_of_patches_leaves_the_result_as_it_was(place: Path) -> None:
    run("out")
    before = content(place / "out")
    with pytest.raises(ConfigError, match="--patches features holds the patches of none of the slides"):
        run("out", patches="features")
    assert content(place / "out") == before
    assert json.loads((place / "out/run.json").read_text())["config"]["patches"] is None


def test_the_report_tells_paths_from_the_working_folder(place: Path) -> None:
    run(str(place / "out"), patches=str(place / "tiles"))
    page = (place / "out/report.html").read_text()
    assert str(place) not in page
    assert "--patches tiles" in page
