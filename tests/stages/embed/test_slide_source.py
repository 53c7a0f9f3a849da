"""Features straight from slides, under coordinates of ours, CLAM's and TRIDENT's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import openslide
import pytest
import tifffile

from sgcl_cli.artefacts.features import open_features, read_header
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.config import EmbedConfig, TileConfig
from sgcl_cli.engine.pool import Lost, Progress, Result
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.embed import embed, slide_source
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.slide import tile_slide

SIDE, TILE = 512, 64


def write_slide(path: Path, seed: int = 0, broken: tuple[int, ...] = ()) -> Path:
    """Texture all over at 2 um per pixel, in JPEG tiles of 64 pixels, of which some cannot be decoded."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (SIDE, SIDE, 3)), (0, 0), 3.0)
    pixels = np.clip(np.array([170, 100, 160]) + 300 * noise, 0, 255).astype(np.uint8)
    starts = range(0, SIDE, TILE)
    files = [
        cv2.imencode(".jpg", cv2.cvtColor(pixels[y : y + TILE, x : x + TILE], cv2.COLOR_RGB2BGR))[1].tobytes()
        for y in starts
        for x in starts
    ]
    for number in broken:
        files[number] = bytes(len(files[number]))
    tags: dict[str, Any] = {"resolution": (5e3, 5e3), "resolutionunit": "CENTIMETER"}
    shape: dict[str, Any] = {"shape": pixels.shape, "dtype": np.uint8, "tile": (TILE, TILE), "photometric": "rgb"}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, iter(files), compression="zlib", metadata=None, extratags=[(530, 3, 2, (2, 2), True)], **shape, **tags
    )
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(7)
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(6)
    return path


def tiled(out: Path, *slides: Path, **settings: Any) -> Path:
    given = {"slides": slides, "out": out, "mpp": 2.0, "patch_size": TILE, "min_tissue": 0.0, **settings}
    for slide in slides:
        tile_slide(Progress(0), Job(Entry(slide.stem, slide, slide.name), TileConfig.resolve(given)))
    return out


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_slide(tmp_path / "slides" / f"{name}.tif", seed)
    return tmp_path / "slides"


def config(patches: Path, slides: Path | None, out: Path, **settings: Any) -> EmbedConfig:
    given = {"encoder": "random:resnet18", "dtype": "float32", "threads": 1, "batch": 24, "device": "cpu", **settings}
    return EmbedConfig.resolve({"patches": patches, "slides": slides, "out": out, **given})


def agree(first: str | Path, second: str | Path) -> None:
    one, two = open_features(first), open_features(second)
    assert [file.slide_id for file in one.files] == [file.slide_id for file in two.files]
    for a, b in zip(one.files, two.files, strict=True):
        assert len(a) and np.array_equal(a.coords, b.coords)
        np.testing.assert_allclose(a.features, b.features, rtol=0, atol=1e-5)


def test_straight_reading_is_reading_lossless_patches(tmp_path, slides):
    stored = tiled(tmp_path / "stored", *sorted(slides.iterdir()), lossless=True)
    coords = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True)
    embed(config(stored, None, tmp_path / "f"))
    for number, settings in enumerate(({"workers": 1}, {"workers": 3, "batch": 7})):
        outcome = embed(config(coords, slides, tmp_path / f"straight{number}", **settings))
        assert not outcome.failures and outcome.data["patches"] == 128
        agree(tmp_path / "f", tmp_path / f"straight{number}")
    file = open_features(tmp_path / "straight0").by_slide()["a"]
    made = PatchFile.open(coords / "patches" / "a.h5")
    assert file.attributes["patches_id"] == made.id and file.attributes["pixels"] == "slides"
    assert np.array_equal(file.grid, made.grid) and file.geometry["patch_size_level0"] == TILE


def test_coordinates_without_slides_say_what_to_do(tmp_path, slides):
    coords = tiled(tmp_path / "coords", slides / "a.tif", coords_only=True)
    with pytest.raises(ArtefactError, match="coordinates without pixels.*--slides"):
        embed(config(coords, None, tmp_path / "out"))
    with pytest.raises(ConfigError, match="no such folder"):
        embed(config(coords, tmp_path / "elsewhere", tmp_path / "out"))


def clam_coords(path: Path, corners: list[tuple[int, int]], size: int = TILE) -> None:
    """As CLAM's create_patches_fp.py writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        places = np.array(corners, np.int64).reshape(-1, 2)
        data = file.create_dataset("coords", data=places, chunks=(1, 2), maxshape=(None, 2))
        data.attrs.update(
            {
                "patch_size": size,
                "patch_level": 0,
                "downsample": (1.0, 1.0),
                "downsampled_level_dim": (SIDE, SIDE),
                "level_dim": (SIDE, SIDE),
                "name": path.stem,
                "save_path": "x",
            }
        )


def trident_coords(path: Path, corners: list[tuple[int, int]], size: int) -> None:
    """As TRIDENT's patching writes them: patches of ``size`` pixels at half of level 0's magnification."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("coords", data=np.array(corners, np.int64))
        data.attrs.update(
            {
                "patch_size": size,
                "patch_size_level0": 2 * size,
                "level0_magnification": 5,
                "target_magnification": 2.5,
                "overlap": 0,
                "name": path.stem.removesuffix("_patches"),
                "savetodir": "x",
                "level0_width": SIDE,
                "level0_height": SIDE,
            }
        )


def test_clams_coordinates(tmp_path, slides, inline):
    """Not on our lattice, in its own order; its own pt_files come out."""
    corners = [(300, 7), (13, 21), (200, 200)]
    clam_coords(tmp_path / "clam" / "patches" / "a.h5", corners)
    clam_coords(tmp_path / "clam" / "patches" / "stranger.h5", corners)
    outcome = embed(config(tmp_path / "clam", slides, tmp_path / "f", layout="clam", also="pt"))
    assert [failure.slide_id for failure in outcome.failures] == ["stranger"]
    with h5py.File(tmp_path / "f" / "h5_files" / "a.h5", "r") as file:
        features, coords = file["features"][:], file["coords"][:]
        assert file["coords"].attrs["patch_size"] == TILE
    assert coords.tolist() == [[*corner] for corner in corners] and features.shape == (3, 512)
    import torch

    loaded = torch.load(tmp_path / "f" / "pt_files" / "a.pt", weights_only=True)
    assert loaded.dtype == torch.float32 and np.array_equal(loaded.numpy(), features)
    (read,) = open_features(tmp_path / "f").files
    assert read.path.parent.name == "h5_files" and (read.grid == -1).all()


def test_tridents_coordinates_at_half_resolution(tmp_path, slides, inline):
    """The same field of view as our own patches at 4 um per pixel."""
    ours = tiled(tmp_path / "ours", slides / "a.tif", mpp=4.0, patch_size=32, coords_only=True)
    corners = [tuple(corner) for corner in PatchFile.open(ours / "patches" / "a.h5").coords.tolist()]
    job = tmp_path / "job" / "2.5x_32px_0px_overlap" / "patches"
    trident_coords(job / "a_patches.h5", corners, 32)
    embed(config(ours, slides, tmp_path / "f"))
    embed(config(tmp_path / "job", slides, tmp_path / "t", layout="trident"))
    agree(tmp_path / "f", tmp_path / "t")
    (path,) = (tmp_path / "t").rglob("*.h5")
    assert path.relative_to(tmp_path / "t").as_posix() == "5x_32px_0px_overlap/features_random_resnet18/a.h5"
    with h5py.File(path, "r") as file:
        data = file["coords"]
        assert (
            data.attrs["patch_size"] * data.attrs["level0_magnification"] / data.attrs["target_magnification"] == TILE
        )
        assert file["features"].shape == (len(corners), 512)


def test_mixed_resolutions_are_refused(tmp_path, slides, inline):
    clam_coords(tmp_path / "clam" / "a.h5", [(0, 0)])
    trident_coords(tmp_path / "clam" / "b_patches.h5", [(0, 0)], TILE)
    with pytest.raises(ConfigError, match="patches of b are at 4 µm/px, of a at 2"):
        embed(config(tmp_path / "clam", slides, tmp_path / "f"))
    trident_coords(tmp_path / "clam" / "b_patches.h5", [(0, 0)], 32)
    with pytest.raises(ConfigError, match="patches of b are 32 pixels, of a 64"):
        embed(config(tmp_path / "clam", slides, tmp_path / "f"))


def test_slides_without_patches_have_no_rows(tmp_path, slides, inline):
    """Of ours, where no tissue was found, and of a peer that chose none; their slides are not read."""
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    tags: dict[str, Any] = {"resolution": (5e3, 5e3), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(slides / "b.tif", white, photometric="rgb", tile=(TILE, TILE), **tags)
    coords = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True, min_tissue=0.1)
    assert len(PatchFile.open(coords / "patches" / "b.h5")) == 0
    clam_coords(tmp_path / "clam" / "a.h5", [(0, 0)])
    clam_coords(tmp_path / "clam" / "b.h5", [])
    for given, out in ((coords, tmp_path / "f"), (tmp_path / "clam", tmp_path / "g")):
        assert not embed(config(given, slides, out)).failures
        files = open_features(out).by_slide()
        assert len(files["a"]) and files["b"].features.shape == (0, 512)


@pytest.mark.parametrize("peer", [False, True])
def test_a_truncated_file_of_coordinates_costs_its_slide(tmp_path, slides, inline, peer):
    if peer:
        folder = tmp_path / "clam" / "patches"
        for name in "ab":
            clam_coords(folder / f"{name}.h5", [(0, 0), (64, 0)])
    else:
        folder = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True) / "patches"
    (folder / "a.h5").write_bytes((folder / "a.h5").read_bytes()[:1000])
    outcome = embed(config(folder.parent, slides, tmp_path / "f"))
    ((failure),) = outcome.failures
    assert failure.slide_id == "a" and "cannot be opened as HDF5: damaged, cut off" in failure.reason
    assert [file.slide_id for file in open_features(tmp_path / "f").files] == ["b"]


def test_one_bad_slide_costs_itself_only(tmp_path, slides):
    write_slide(slides / "c.tif", 2, broken=(3, 4))
    coords = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True)
    (slides / "b.tif").write_bytes(b"no slide")
    outcome = embed(config(coords, slides, tmp_path / "f"))
    assert [(failure.slide_id, failure.reason) for failure in outcome.failures] == [
        ("b", "b.tif is not the slide that was tiled")
    ]
    assert "c: 2 of 64 patches cannot be read and are left out" in outcome.warnings
    assert [*read_header(tmp_path / "f" / "c.h5").unreadable] == [3, 4]
    files = open_features(tmp_path / "f").by_slide()
    assert len(files["a"]) == 64 and len(files["c"]) == 62
    kept = np.delete(PatchFile.open(coords / "patches" / "c.h5").coords, [3, 4], axis=0)
    assert np.array_equal(files["c"].coords, kept)
    (slides / "b.tif").unlink()
    write_slide(slides / "b.tif", 1)
    again = embed(config(coords, slides, tmp_path / "f"))
    assert not again.failures and again.data["computed"] == 64


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_costs_its_slide_after_a_second_try(tmp_path, slides, monkeypatch, deaths):
    coords = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True)
    true = slide_source.read_patches

    def treacherous(job: slide_source.SlideJob, share: Callable[[], int]) -> Iterator[Any]:
        for row, patch in true(job, share):
            if job.entry.slide_id == "a" and row == 63 and len(list(tmp_path.glob("death*"))) < deaths:
                (tmp_path / f"death{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield row, patch

    embed(config(coords, slides, tmp_path / "whole"))
    monkeypatch.setattr(slide_source, "read_patches", treacherous)
    outcome = embed(config(coords, slides, tmp_path / "f", workers=2))
    assert len(list(tmp_path.glob("death*"))) == deaths
    if deaths == 1:
        assert not outcome.failures
        agree(tmp_path / "whole", tmp_path / "f")
    else:
        ((failure),) = outcome.failures
        assert failure.slide_id == "a" and "died (signal 9, perhaps out of memory)" in failure.reason
        assert [file.slide_id for file in open_features(tmp_path / "f").files] == ["b"]


@pytest.mark.parametrize("hangs", [1, 2])
def test_a_reader_that_hangs_costs_its_slide_after_a_second_try(tmp_path, slides, monkeypatch, hangs):
    """Stopped in the middle, as in a C library that never comes back."""
    coords = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True)
    embed(config(coords, slides, tmp_path / "whole"))
    true = slide_source.read_patches

    def stuck(job: slide_source.SlideJob, share: Callable[[], int]) -> Iterator[Any]:
        for row, patch in true(job, share):
            if job.entry.slide_id == "a" and row == 40 and len(list(tmp_path.glob("hang*"))) < hangs:
                (tmp_path / f"hang{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            yield row, patch

    monkeypatch.setattr(slide_source, "read_patches", stuck)
    outcome = embed(config(coords, slides, tmp_path / "f", workers=1, slide_timeout=3.0))
    assert len(list(tmp_path.glob("hang*"))) == hangs
    if hangs == 1:
        assert not outcome.failures
        agree(tmp_path / "whole", tmp_path / "f")
    else:
        ((failure),) = outcome.failures
        assert failure.slide_id == "a" and failure.reason == "nothing was read of it for 3 s"
        assert [file.slide_id for file in open_features(tmp_path / "f").files] == ["b"]
        assert "nothing was read" in (tmp_path / "f" / "failures.csv").read_text()


def test_a_slide_that_hangs_when_it_is_opened_costs_itself(tmp_path, slides, monkeypatch):
    """A peer's coordinates need the slide's resolution first."""
    for name in "ab":
        clam_coords(tmp_path / "clam" / f"{name}.h5", [(0, 0)])

    def run_tasks(function: Any, tasks: dict[str, Any], *, timeout: float, **_: Any) -> Iterator[Result[Any]]:
        assert timeout == 7.0
        yield Result("a", error=Lost("it took longer than 7 s"))
        yield Result("b", slide_source.look(Progress(0), *tasks["b"]))

    monkeypatch.setattr(slide_source, "run_tasks", run_tasks)
    outcome = embed(config(tmp_path / "clam", slides, tmp_path / "f", slide_timeout=7.0))
    assert [(failure.slide_id, failure.reason) for failure in outcome.failures] == [("a", "it took longer than 7 s")]
    assert "--slide-timeout" in outcome.failures[0].hint


def test_kill_9_and_again(tmp_path, slides):
    coords = tiled(tmp_path / "coords", *sorted(slides.iterdir()), coords_only=True)
    embed(config(coords, slides, tmp_path / "whole", batch=4))
    out = tmp_path / "f"
    program = (
        "import sys; from sgcl_cli.stages.embed import writer; writer._CHECKPOINT_ROWS = 4\n"
        "from sgcl_cli.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "embed", str(coords), "--slides", str(slides), "--out", str(out)]
    command += [
        "--encoder",
        "random:resnet18",
        "--dtype",
        "float32",
        "--batch",
        "4",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob(".part/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert list(out.glob(".part/*.json")) and not (out / "run.json").exists()
    outcome = embed(config(coords, slides, out, batch=4))
    assert not outcome.failures and not list(out.glob(".part/*"))
    agree(tmp_path / "whole", out)


def test_going_on_reads_only_what_is_missing(tmp_path, slides):
    coords = tiled(tmp_path / "coords", slides / "a.tif", coords_only=True)
    file = PatchFile.open(coords / "patches" / "a.h5")
    entry = Entry("a", slides / "a.tif", "a.tif")
    job = slide_source.SlideJob(entry, file.coords, (TILE, TILE), TILE, None, None, file.source["identity"])
    whole = dict(slide_source.read_patches(job, lambda: 1))
    rest = dict(slide_source.read_patches(replace(job, done=50), lambda: 1))
    assert sorted(rest) == [*range(50, 64)] and all(np.array_equal(rest[row], whole[row]) for row in rest)


@pytest.mark.parametrize("kept", [True, False])
def test_anndata_shows_the_slide_under_its_patches(tmp_path, slides, kept):
    """The thumbnail that tiling left, else one that is read from the slide."""
    anndata = pytest.importorskip("anndata")
    coords = tiled(tmp_path / "coords", slides / "a.tif", coords_only=True)
    if not kept:
        (coords / "thumbnails" / "a.jpg").unlink()
    (slides / "b.tif").unlink()
    embed(config(coords, slides, tmp_path / "f", also="anndata"))
    data = anndata.read_h5ad(tmp_path / "f" / "anndata" / "a.h5ad")
    shown = data.uns["spatial"]["a"]["images"]["hires"]
    factor = data.uns["spatial"]["a"]["scalefactors"]["tissue_hires_scalef"]
    assert shown.shape == (128, 128, 3) and factor == 0.25
    with openslide.OpenSlide(slides / "a.tif") as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)).convert("RGB"))
    expected = whole.reshape(128, 4, 128, 4, 3).mean((1, 3))
    one, other = ((pixels @ (0.299, 0.587, 0.114)).ravel() for pixels in (shown, expected))  # JPEG halves colour
    assert np.corrcoef(one, other)[0, 1] > 0.98
