from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts.coordinates import find, read
from sgcl_cli.errors import ArtefactError, ConfigError

CORNERS = np.array([[512, 0], [0, 512], [1024, 512]])
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "a",
    "savetodir": "somewhere",
    "level0_width": 4000,
    "level0_height": 3000,
}
CLAM = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (4.0, 4.0),
    "downsampled_level_dim": (1000, 750),
    "level_dim": (1000, 750),
    "name": "a",
    "save_path": "somewhere",
}


def write(path: Path, attributes: dict[str, Any], corners: Any = CORNERS) -> Path:
    """As both peers write them: grown row by row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        corners = np.asarray(corners)
        chunks = (1, *corners.shape[1:]) if corners.ndim else None
        data = file.create_dataset("coords", data=corners, maxshape=(None, *corners.shape[1:]), chunks=chunks)
        for name, value in attributes.items():
            data.attrs[name] = value
    return path


def without(attributes: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in names}


def test_tridents_files(tmp_path):
    found = read(write(tmp_path / "a_patches.h5", TRIDENT))
    assert found.corners.tolist() == CORNERS.tolist() and found.corners.dtype == np.int64
    assert (found.patch_size, found.sides, found.level, found.size) == (256, (512.0, 512.0), None, (4000, 3000))
    older = read(write(tmp_path / "b_patches.h5", without(TRIDENT, "patch_size_level0", "level0_width")))
    assert (older.sides, older.size) == ((512.0, 512.0), None)
    oblong = without(TRIDENT, "patch_size_level0") | {"patch_size_level0_xy": (512.0, 320.0)}
    assert read(write(tmp_path / "c_patches.h5", oblong)).sides == (512.0, 320.0)


def test_clams_files(tmp_path):
    found = read(write(tmp_path / "a.h5", CLAM, CORNERS.astype(np.int32)))
    assert (found.patch_size, found.sides, found.level, found.level_size) == (256, None, 1, (1000, 750))
    assert read(write(tmp_path / "b.h5", {"patch_size": 256, "patch_level": 0})).level_size is None


def test_the_digest_follows_what_is_used(tmp_path):
    first = read(write(tmp_path / "a.h5", TRIDENT)).sha256
    assert read(write(tmp_path / "a.h5", TRIDENT | {"savetodir": "elsewhere"})).sha256 == first
    assert read(write(tmp_path / "a.h5", TRIDENT, CORNERS.astype(np.int32))).sha256 == first
    assert read(write(tmp_path / "a.h5", TRIDENT | {"patch_size_level0": 511})).sha256 != first
    assert read(write(tmp_path / "a.h5", TRIDENT, CORNERS[::-1])).sha256 != first


@pytest.mark.parametrize(
    ("attributes", "corners", "why"),
    [
        ({}, CORNERS, "no attribute 'patch_size'"),
        ({"patch_size": 256}, CORNERS, "neither 'patch_size_level0' .TRIDENT. nor 'patch_level' .CLAM."),
        (TRIDENT, CORNERS.astype(float), "float64"),
        (TRIDENT, CORNERS[:, :1], "not whole numbers"),
        (TRIDENT, CORNERS - 1, "reach from -1"),
        (TRIDENT, CORNERS + 2**31, "reach from"),
        (TRIDENT | {"patch_size": 0}, CORNERS, "'patch_size' is 0"),
        (TRIDENT | {"patch_size_level0": np.nan}, CORNERS, "'patch_size_level0' is nan"),
        (TRIDENT | {"patch_size": (256, 256)}, CORNERS, "'patch_size' is 256.0, 256.0"),
        (CLAM | {"patch_level": -1}, CORNERS, "'patch_level' is -1"),
        (CLAM | {"patch_size": "large"}, CORNERS, "cannot be read"),
    ],
)
def test_foreign_files_are_refused_by_name(tmp_path, attributes, corners, why):
    path = write(tmp_path / "slide 1.h5", attributes, corners)
    with pytest.raises(ArtefactError, match=why) as caught:
        read(path)
    assert caught.value.message.startswith("slide 1.h5") and caught.value.hint
    assert str(tmp_path) not in caught.value.message


def test_deceit_is_refused(tmp_path):
    secret = write(tmp_path / "secret.h5", TRIDENT)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = h5py.ExternalLink(secret, "coords")
    with pytest.raises(ArtefactError, match="link"):
        read(path)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((3, 2), np.int64)
        layout[:] = h5py.VirtualSource(secret, "coords", (3, 2))
        file.create_virtual_dataset("coords", layout)
    with pytest.raises(ArtefactError, match="other files"):
        read(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", (10**9, 2), np.int64, chunks=(1024, 2))
    with pytest.raises(ArtefactError, match="claims"):
        read(path)
    with h5py.File(path, "w") as file:
        file.create_group("coords")["again"] = file["/"]
    with pytest.raises(ArtefactError):
        read(path)
    path.write_bytes(b"not HDF5")
    with pytest.raises(ArtefactError, match="cannot be opened"):
        read(path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (".", "{}.h5"),
        ("patches", "{}.h5"),
        (".", "{}_patches.h5"),
        ("20x_256px_0px_overlap/patches", "{}_patches.h5"),
        ("20.0x_512px_0px_overlap/patches", "{}_patches.h5"),
    ],
)
def test_files_are_found_in_either_tree(tmp_path, folder, name):
    paths = {slide: write(tmp_path / folder / name.format(slide), TRIDENT) for slide in ("a", "b.1", "c", "other")}
    files, strangers = find(tmp_path, ["a", "b.1", "c.ome", "none"])
    assert files == {"a": paths["a"], "b.1": paths["b.1"], "c.ome": paths["c"]}
    assert strangers == [paths["other"].name]


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        find(tmp_path / "absent", ["a"])
    with pytest.raises(ConfigError, match="no coordinate file"):
        find(tmp_path, ["a"])
    write(tmp_path / "patches" / "b.h5", CLAM)
    with pytest.raises(ConfigError, match="no coordinate file in .*; it has b.h5") as caught:
        find(tmp_path, ["a"])
    assert "<slide_id>.h5" in caught.value.hint
    write(tmp_path / "patches" / "b_patches.h5", TRIDENT)
    with pytest.raises(ConfigError, match="two files for slide b: b.h5 and b_patches.h5"):
        find(tmp_path, ["b"])
    write(tmp_path / "10x_256px_0px_overlap" / "patches" / "b_patches.h5", TRIDENT)
    with pytest.raises(ConfigError, match="several folders: patches, 10x_256px_0px_overlap/patches"):
        find(tmp_path, ["b"])
