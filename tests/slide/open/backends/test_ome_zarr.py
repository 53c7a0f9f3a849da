from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends.ome_zarr import OmeZarr
from sgcl_cli.slide.open.discover import discover
from sgcl_cli.slide.open.files import identity
from sgcl_cli.slide.open.reader import Slide


def write(path: Path, pixels: np.ndarray, *, version: int = 3, axes: str = "tczyx", unit="micrometer", **array) -> Path:
    """An OME-Zarr of two levels at 0.5 µm, in chunks of 256 pixels."""
    zarr = pytest.importorskip("zarr", reason="zarr is an extra")
    group = zarr.open_group(path, mode="w", zarr_format=version)
    datasets = []
    for name, factor in (("0", 1), ("1", 4)):
        level = pixels[: pixels.shape[0] // factor * factor, : pixels.shape[1] // factor * factor]
        blocks = level.reshape(level.shape[0] // factor, factor, level.shape[1] // factor, factor, 3)
        content = np.rint(blocks.mean(axis=(1, 3))).astype(array.get("dtype", "u1"))
        placed = content.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
        placed = placed[tuple(slice(None) if axis in "yxc" else None for axis in axes)]
        chunks = tuple(256 if axis in "xy" else placed.shape[n] for n, axis in enumerate(axes))
        group.create_array(name, shape=placed.shape, chunks=chunks, **{"dtype": "u1", **array})[:] = placed
        scale = [0.5 * factor if axis in "xy" else 1.0 for axis in axes]
        datasets.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    named = [{"name": axis, **({"unit": unit} if axis in "xy" else {})} for axis in axes]
    image = [{"axes": named, "datasets": datasets}]
    group.attrs.update({"multiscales": image} if version == 2 else {"ome": {"version": "0.5", "multiscales": image}})
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    down, across = np.indices((700, 900))
    return np.stack([across // 4, down // 4, (across + down) // 8], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("version", "axes"), [(2, "tczyx"), (3, "tczyx"), (3, "yxc"), (3, "cyx")])
def test_both_versions_and_any_order_of_axes_are_read(tmp_path, pixels, version, axes):
    path = write(tmp_path / "a.ome.zarr", pixels, version=version, axes=axes)
    with Slide(path) as slide:
        assert slide.library == "zarr" and slide.size == (900, 700) and slide.mpp == 0.5 and not slide.unusable
        assert slide.level_sizes == ((900, 700), (225, 175)) and slide.downsamples == (1, 4)
        assert np.array_equal(slide.pixels(0, (203, 107), (400, 300)), pixels[107:407, 203:603])
        over = slide.pixels(0, (850, 690), (200, 20))
        assert np.array_equal(over[:10, :50], pixels[690:, 850:]) and (over[10:] == 255).all()
        coarse = slide.pixels(1, (400, 200), (50, 40)).astype(int)
        expected = pixels[200:360, 400:600].reshape(40, 4, 50, 4, 3).mean(axis=(1, 3))
        assert np.abs(coarse - expected).max() <= 1


def test_a_folder_is_one_slide_with_an_identity_of_all_its_files(tmp_path, pixels):
    path = write(tmp_path / "slides" / "a.ome.zarr", pixels)
    (tmp_path / "slides" / "notes.txt").touch()
    for given in (path, tmp_path / "slides"):
        found = discover([given], None, "stem", lambda paths: [None for _ in paths])
        assert [(entry.slide_id, entry.path) for entry in found.entries] == [("a", path)]
    assert found.passed_over == "passed over 1 (1 .txt)"
    before = identity(path)
    description = path / "zarr.json"
    text = description.read_text()
    description.write_text(text.replace("0.5,", "0.7,", 1))
    assert len(description.read_text()) == len(text) and identity(path) != before
    description.write_text(text)
    assert identity(path) == before
    next(file for file in (path / "0").rglob("*") if file.is_file() and file.name != "zarr.json").unlink()
    assert identity(path) != before


def test_what_is_no_slide_is_refused_by_name(tmp_path, pixels):
    with pytest.raises(SlideError, match=r"a\.zarr has uint16 samples"):
        Slide(write(tmp_path / "a.zarr", pixels, dtype="u2"))
    with pytest.raises(SlideError, match="records no resolution"):
        Slide(write(tmp_path / "b.zarr", pixels, unit="pixel"))
    path = write(tmp_path / "c.zarr", pixels)
    said = json.loads((path / "zarr.json").read_text())
    said["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = "../b.zarr/0"
    (path / "zarr.json").write_text(json.dumps(said))
    with pytest.raises(SlideError, match=r"c\.zarr cannot be read: ValueError: the path \.\./b\.zarr/0 leads out"):
        Slide(path)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(SlideError, match=r"empty\.zarr cannot be read") as caught:
        Slide(tmp_path / "empty.zarr")
    assert "OME-Zarr image of versions" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("compressor", {"id": "pickle", "protocol": 5}, r"a\.zarr .*pickle"),
        ("filters", [{"id": "delta", "dtype": "u1"}], r"a\.zarr uses codec delta"),
        ("filters", [{"id": "pickle", "protocol": 5}], r"a\.zarr .*pickle"),
    ],
)
def test_codecs_that_are_not_known_to_be_harmless_are_refused(tmp_path, pixels, key, value, message):
    path = write(tmp_path / "a.zarr", pixels, version=2)
    said = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(said | {key: value}))
    with pytest.raises(SlideError, match=message):
        Slide(path)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.zarr").mkdir()
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(SlideError, match=r"a\.zarr needs zarr, which is not installed") as caught:
        OmeZarr(tmp_path / "a.zarr")
    assert caught.value.hint == "pip install 'sgcl[zarr]'"
