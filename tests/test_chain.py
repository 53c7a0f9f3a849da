"""The five commands together: from Python, in a shell script, and through the door with bad input."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from sgcl_cli.artefacts import store
from sgcl_cli.cli.app import run
from sgcl_cli.config import EmbedConfig, EvaluateConfig, PretrainConfig, TileConfig
from sgcl_cli.progress import Silent

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_data" / "slides"
Make = Callable[..., Path]

SCRIPT = """
set -euo pipefail
sgcl tile "$SLIDES" --out "$OUT/tiles" --mpp 2 --patch-size 64 --json > "$OUT/tile.json"
sgcl pretrain "$OUT/tiles" --out "$OUT/run" --epochs 2 --batch 16 --view 32 --corner 16 --negatives 64 --device cpu --quiet
sgcl embed "$OUT/tiles" --encoder "$OUT/run" --out "$OUT/features" --device cpu --quiet
sgcl evaluate "$OUT/features" --labels "$OUT/labels.csv" --out "$OUT/results" --folds 3 --mil-epochs 2 --bootstrap 50 --device cpu
sgcl predict "$OUT/results" "$OUT/features" --out "$OUT/predicted" --device cpu --quiet
"""


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small synthetic slides with labels.csv."""
    folder = tmp_path_factory.mktemp("cohort")
    program = f"import make_slides as m; m.make_cohort(m.cohort(8, side_um=(700, 800)), m.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", program], check=True, env=_environment(PYTHONPATH=str(ROOT / "sample_data")))
    return folder


@pytest.mark.slow
def test_the_five_commands_in_a_script_that_stops_at_the_first_failure(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text((cohort / "labels.csv").read_text())
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        env=_environment(SLIDES=str(cohort / "slides"), OUT=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tiled = json.loads((tmp_path / "tile.json").read_text())
    assert tiled["stage"] == "tile" and tiled["failures"] == []
    assert {p.name for p in (tmp_path / "results").iterdir()} >= {
        "metrics.json",
        "report.html",
        "predictions.csv",
        "run.json",
    }
    assert "AUROC" in done.stdout
    with (tmp_path / "predicted" / "predictions.csv").open(newline="") as file:
        assert len({row["slide_id"] for row in csv.DictReader(file)}) == 8


@pytest.mark.slow
def test_the_stages_from_python(cohort: Path, tmp_path: Path) -> None:
    from sgcl_cli.stages.embed import embed
    from sgcl_cli.stages.evaluate import evaluate
    from sgcl_cli.stages.pretrain import pretrain
    from sgcl_cli.stages.tile import tile

    tiles, trained, features = (str(tmp_path / name) for name in ("tiles", "run", "features"))
    tiled = tile(TileConfig(slides=(str(cohort / "slides"),), out=tiles, mpp=2.0, patch_size=64, workers=2))
    assert tiled.total == 8 and not tiled.failures
    pretrain(
        PretrainConfig(
            patches=tiles, out=trained, epochs=2, batch=16, view=32, corner=16, negatives=64, device="cpu", threads=1
        )
    )
    embed(EmbedConfig(patches=tiles, encoder=trained, out=features, device="cpu", threads=1))
    outcome = evaluate(
        EvaluateConfig(
            features=features,
            labels=str(cohort / "labels.csv"),
            out=str(tmp_path / "results"),
            folds=3,
            mil_epochs=2,
            bootstrap=50,
            device="cpu",
        ),
        Silent(),
    )
    assert outcome.stage == "evaluate"
    ids = {
        row["slide_id"] for row in csv.DictReader((tmp_path / "results" / "predictions.csv").read_text().splitlines())
    }
    assert ids == {f"slide_{n + 1:03d}" for n in range(8)}
    first = store.read_json(Path(tiles) / "run.json")["id"]
    assert store.read_json(Path(trained) / "run.json")["inputs"]["patches"] == first


# Through the door: one line, a hint, the exit code, and nothing lost.


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = run(words)
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert lines[errors[0] + 1].startswith("  hint: ") and len(lines[errors[0] + 1]) > len("  hint: "), lines
    return code, lines[errors[0]]


@pytest.fixture
def broken_slides(tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "empty.svs").write_bytes(b"")
    (folder / "text.svs").write_text("not a slide")
    return folder


def test_slides_that_are_none(broken_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    (tmp_path / "void").mkdir()
    for words, code, message in (
        (["tile", str(tmp_path / "absent.svs"), "--out", out], 2, "absent.svs"),
        (["tile", str(tmp_path / "void"), "--out", out], 2, "no slides"),
        (["tile", str(broken_slides / "text.svs"), "--out", out], 1, "text.svs"),
        (["tile", str(broken_slides), "--out", out], 1, "none of 2 slides"),
    ):
        got, line = _refused(words, capsys)
        assert (got, message in line) == (code, True), line


def test_a_good_slide_among_bad_ones_is_code_3_unless_allowed(
    broken_slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "tile",
        str(broken_slides),
        str(SAMPLES / "sample_generic_050.tif"),
        "--out",
        str(tmp_path / "out"),
        "--mpp",
        "2",
    ]
    assert run(words) == 3
    captured = capsys.readouterr()
    assert "  text.svs is not a slide" in captured.err and "  empty.svs is not a slide" in captured.err
    assert [p.name for p in (tmp_path / "out" / "patches").iterdir()] == ["sample_generic_050.h5"]
    assert len((tmp_path / "out" / "failures.csv").read_text().splitlines()) == 3
    assert run([*words, "--allow-failures", "2"]) == 0
    assert run([*words, "--allow-failures", "1"]) == 3
    capsys.readouterr()


def test_a_slide_without_resolution(tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide = str(real_data / "vendor" / "tcga-cr-7395-01a-01-ts1.svs")
    code, line = _refused(["tile", slide, "--out", str(tmp_path)], capsys)
    assert code == 1 and "tcga-cr-7395-01a-01-ts1.svs" in line


def test_pretrain_inputs(make_patches: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    tiles = str(make_patches())
    for words, code, message in (
        (["pretrain", str(tmp_path / "absent"), "--out", out], 1, "no such folder"),
        (["pretrain", str(tmp_path), "--out", out], 1, "no patches in"),
        (["pretrain", tiles, "--out", out], 1, "fewer than a batch of 128"),
        (["pretrain", str(make_patches("bare", pixels=False)), "--out", out], 1, "without pixels"),
        (["pretrain", str(make_patches("none", {"a": (0, 0)})), "--out", out], 1, "no slide in"),
        (["pretrain", tiles, "--out", out, "--device", "cuda:99", "--batch", "8"], 1, "--device cuda:99"),
        (["pretrain", tiles, "--out", out, "--device", "abacus", "--batch", "8"], 2, "--device abacus"),
        (["embed", tiles, "--encoder", str(tmp_path / "absent"), "--out", out], 1, "no such encoder"),
    ):
        got, line = _refused(words, capsys)
        assert (got, message in line) == (code, True), line
    assert not Path(out).exists()


@pytest.mark.parametrize("stage", ["tile", "pretrain", "embed", "evaluate"])
def test_no_stage_writes_over_another(
    stage: str, make_patches: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patches, features, out = make_patches(), tmp_path / "features", tmp_path / "out"
    embedding = ["embed", str(patches), "--encoder", "mean-colour", "--device", "cpu"]
    assert run([*embedding, "--out", str(features)]) == 0
    command = {
        "tile": ["tile", str(SAMPLES)],
        "pretrain": ["pretrain", str(patches)],
        "embed": embedding,
        "evaluate": ["evaluate", str(features)],
    }[stage]
    out.mkdir()
    (out / "run.json").write_text('{"stage": "another"}')
    assert run([*command, "--out", str(out), "--overwrite"]) == 2
    assert "holds the output of sgcl another" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["run.json"]
    file = tmp_path / "file"
    file.write_text("mine")
    assert run([*command, "--out", str(file), "--dry-run"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_a_full_disk(
    make_patches: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    words = ["pretrain", str(make_patches()), "--out", str(tmp_path / "run"), "--epochs", "1", "--batch", "8"]
    code, line = _refused([*words, "--negatives", "8", "--device", "cpu", "--threads", "1"], capsys)
    assert code == 1 and "the disk is full while writing" in line
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.endswith((".pt", ".tmp"))]


def test_a_table_of_settings_with_a_typo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("[tile]\nmmp = 0.5\n")
    code, line = _refused(["tile", "x.svs", "--out", "o", "--config", str(tmp_path / "c.toml")], capsys)
    assert code == 2 and "unknown setting 'mmp'" in line


def test_patches_that_are_a_trap(make_patches: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_patches() / "patches" / "a.h5"
    with h5py.File(path, "r+") as file:
        del file["coords"]
        file["coords"] = h5py.ExternalLink("/etc/passwd", "x")
    code, line = _refused(["pretrain", str(path.parent), "--out", str(tmp_path / "run")], capsys)
    assert code == 1 and "is a link" in line


def test_names_are_shown_as_they_are(
    make_patches: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    name = "[bold red]<script>alert(1)<"
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.svs").write_text("not a slide")
    assert run(["tile", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert name in capsys.readouterr().err.replace("\n", "")
