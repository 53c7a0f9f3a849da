"""Slides under our coordinates, CLAM's and TRIDENT's, embedded and evaluated; and features that others have written.

The files of peers are written here with plain h5py, by the conventions of https://github.com/mahmoodlab/CLAM and
https://github.com/mahmoodlab/TRIDENT. All lie at the same places, so that every way must lead to the same predictions.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch

from sgcl_cli.artefacts.features import open_features
from sgcl_cli.config import EmbedConfig, EvaluateConfig, TileConfig
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import ArtefactError
from sgcl_cli.slide.open.discover import Entry
from sgcl_cli.stages.embed import embed, slide_source
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.slide import tile_slide
from tests.stages.inline import run_tasks

SIDE, SIZE = 256, 64
CORNERS = [(x, y) for y in range(0, SIDE, SIZE) for x in range(0, SIDE, SIZE)]
NAMES = [f"s{number}" for number in range(8)]


@pytest.fixture(autouse=True, scope="module")
def inline_slides(quick: None) -> Iterator[None]:
    """Slides are processed in the test's own process; the pool is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slide_source, "run_tasks", run_tasks)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight slides of two hues at 0.5 um per pixel, and their labels."""
    root = tmp_path_factory.mktemp("cohort")
    (root / "slides").mkdir()
    for number, name in enumerate(NAMES):
        hue = (190, 110, 170) if number % 2 else (130, 90, 190)
        noise = np.random.default_rng(number).normal(0, 25, (SIDE, SIDE, 3))
        pixels = np.clip(np.array(hue) + noise, 0, 255).astype(np.uint8)
        place = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(root / "slides" / f"{name}.tif", pixels, photometric="rgb", tile=(64, 64), **place)
    lines = [f"{name}.tif,{'light' if number % 2 else 'dark'}" for number, name in enumerate(NAMES)]
    (root / "labels.csv").write_text("\n".join(["slide_id,label", *lines]) + "\n")
    return root


def our_coords(out: Path, slides: Path) -> None:
    given = {"slides": (slides,), "out": out, "mpp": 0.5, "patch_size": SIZE, "min_tissue": 0.0, "coords_only": True}
    for name in NAMES:
        tile_slide(Progress(0), Job(Entry(name, slides / f"{name}.tif", f"{name}.tif"), TileConfig.resolve(given)))


def clam_coords(out: Path, slides: Path) -> None:
    """patches/<slide_id>.h5, one-row chunks, patches of level 0."""
    (out / "patches").mkdir(parents=True)
    for name in NAMES:
        with h5py.File(out / "patches" / f"{name}.h5", "w") as file:
            data = file.create_dataset("coords", data=np.array(CORNERS), chunks=(1, 2), maxshape=(None, 2))
            sizes = {"downsampled_level_dim": (SIDE, SIDE), "level_dim": (SIDE, SIDE), "downsample": (1.0, 1.0)}
            data.attrs.update({"patch_size": SIZE, "patch_level": 0, "name": name, "save_path": "x", **sizes})


def trident_coords(out: Path, slides: Path) -> None:
    """<magnification>x_<size>px_<overlap>px_overlap/patches/<slide_id>_patches.h5."""
    folder = out / f"20x_{SIZE}px_0px_overlap" / "patches"
    folder.mkdir(parents=True)
    for name in NAMES:
        with h5py.File(folder / f"{name}_patches.h5", "w") as file:
            data = file.create_dataset("coords", data=np.array(CORNERS))
            powers = {"level0_magnification": 20, "target_magnification": 20, "overlap": 0}
            size = {"patch_size": SIZE, "patch_size_level0": SIZE, "level0_width": SIDE, "level0_height": SIDE}
            data.attrs.update({**powers, **size, "name": name, "savetodir": "x"})


def embedded(coords: Path, cohort: Path, out: Path, layout: str) -> Path:
    given = {"patches": coords, "slides": cohort / "slides", "encoder": "colour-histogram", "out": out}
    run = {"layout": layout, "dtype": "float32", "threads": 1, "device": "cpu", "workers": 1}
    assert not embed(EmbedConfig.resolve({**given, **run})).failures
    return out


def predictions(features: Path, cohort: Path, out: Path) -> list[dict[str, str]]:
    quick = {"folds": 2, "seeds": 1, "mil_epochs": 1, "mil_hidden": 4, "bootstrap": 0, "threads": 1, "device": "cpu"}
    outcome = evaluate(
        EvaluateConfig.resolve({"features": features, "labels": cohort / "labels.csv", "out": out, **quick})
    )
    assert not outcome.failures
    with (out / "predictions.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def ours(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """The features of our own coordinates, and what is predicted from them."""
    root = tmp_path_factory.mktemp("ours")
    our_coords(root / "coords", cohort / "slides")
    features = embedded(root / "coords", cohort, root / "features", "sgcl")
    found = predictions(features, cohort, root / "result")
    told = {(row["slide_id"], row["label"]) for row in found}
    assert told == {(name, "light" if number % 2 else "dark") for number, name in enumerate(NAMES)}
    return features, found


@pytest.mark.parametrize(("write", "layout"), [(clam_coords, "clam"), (trident_coords, "trident")])
def test_coordinates_of_peers_lead_to_the_same_predictions(
    write: Callable[[Path, Path], None],
    layout: str,
    cohort: Path,
    ours: tuple[Path, list[dict[str, str]]],
    tmp_path: Path,
) -> None:
    write(tmp_path / "coords", cohort / "slides")
    features = embedded(tmp_path / "coords", cohort, tmp_path / "features", layout)
    for mine, theirs in zip(open_features(ours[0]).files, open_features(features).files, strict=True):
        assert mine.slide_id == theirs.slide_id and np.array_equal(mine.coords, theirs.coords)
        np.testing.assert_allclose(mine.features, theirs.features, rtol=0, atol=1e-5)
    assert predictions(features, cohort, tmp_path / "result") == ours[1]
    attention = (tmp_path / "result" / "attention" / "s0.csv").read_text().splitlines()
    assert len(attention) == len(CORNERS) + 1 and attention[2].startswith(f"1,{SIZE},0,")


def clam_features(out: Path, name: str, features: np.ndarray, coords: np.ndarray) -> None:
    for folder in ("h5_files", "pt_files"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with h5py.File(out / "h5_files" / f"{name}.h5", "w") as file:
        file.create_dataset(
            "features", data=features, chunks=(1, features.shape[1]), maxshape=(None, features.shape[1])
        )
        file.create_dataset("coords", data=coords, chunks=(1, 2), maxshape=(None, 2))
    torch.save(torch.from_numpy(features), out / "pt_files" / f"{name}.pt")


def clam_tensors(out: Path, name: str, features: np.ndarray, coords: np.ndarray) -> None:
    (out / "pt_files").mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(features), out / "pt_files" / f"{name}.pt")


def trident_features(out: Path, name: str, features: np.ndarray, coords: np.ndarray) -> None:
    folder = out / "20x_64px_0px_overlap" / "features_tiny"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file.create_dataset("features", data=features).attrs.update({"encoder": "tiny", "name": name, "savetodir": "x"})
        places = file.create_dataset("coords", data=coords)
        places.attrs.update({"patch_size": SIZE, "patch_size_level0": SIZE, "target_magnification": 20, "name": name})
    (folder / "_config_feats_tiny.json").write_text("{}")


@pytest.mark.parametrize("write", [clam_features, clam_tensors, trident_features])
def test_features_of_peers_lead_to_the_same_predictions(
    write: Callable[..., None], cohort: Path, ours: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    for file in open_features(ours[0]).files:
        write(tmp_path / "peer", file.slide_id, file.features, file.coords)
    assert predictions(tmp_path / "peer", cohort, tmp_path / "result") == ours[1]
    attention = (tmp_path / "result" / "attention" / "s0.csv").read_text().splitlines()
    assert len(attention) == len(CORNERS) + 1
    assert attention[2].startswith("1," if write is clam_tensors else f"1,{SIZE},0,")


def test_a_peers_file_that_was_cut_short_is_refused(cohort: Path, tmp_path: Path) -> None:
    """CLAM appends batch by batch: a run that was killed between two datasets leaves them of two lengths."""
    for name in NAMES:
        clam_features(tmp_path / "peer", name, np.ones((16, 4), np.float32), np.array(CORNERS))
    with h5py.File(tmp_path / "peer" / "h5_files" / "s3.h5", "r+") as file:
        file["coords"].resize(12, axis=0)
    with pytest.raises(ArtefactError, match=r"s3.h5 has 16 rows of features, and coords \(12, 2\).*embed this slide"):
        predictions(tmp_path / "peer", cohort, tmp_path / "result")
