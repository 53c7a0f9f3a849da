from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex, PatchWriter, folder_id
from sgcl_cli.errors import ArtefactError

Make = Callable[..., Path]


def test_index_runs_over_slides_in_order(make_patches: Make) -> None:
    index = PatchIndex.open(make_patches(slides={"b": (2, 1), "a": (3, 1), "empty": (0, 0)}))
    assert index.slide_ids == ("a", "b", "empty")
    assert len(index) == 5
    assert index.slide_of.tolist() == [0, 0, 0, 1, 1]
    assert [(f.slide_id, row) for f, row in map(index.locate, range(5))] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 0),
        ("b", 1),
    ]
    assert simplejpeg.decode_jpeg(index.read(4)).shape == (32, 32, 3)
    assert index.read(4) == index.files[1].read(1)
    assert index.cells.tolist() == [[0, 0], [1, 0], [2, 0], [0, 0], [1, 0]]


def test_memory_map_survives_pickling(make_patches: Make) -> None:
    index = PatchIndex.open(make_patches())
    first = index.read(0)
    copy = pickle.loads(pickle.dumps(index))
    assert "jpeg" not in copy.files[0].__dict__
    assert copy.read(0) == first


def test_folder_id_ignores_order_and_follows_content(make_patches: Make) -> None:
    assert folder_id(["a", "b"]) == folder_id(["b", "a"]) != folder_id(["a"])
    assert PatchIndex.open(make_patches("x", seed=0)).id != PatchIndex.open(make_patches("y", seed=1)).id


def test_coordinates_alone_are_enough_unless_pixels_are_needed(make_patches: Make) -> None:
    folder = make_patches(pixels=False)
    assert len(PatchIndex.open(folder)) == 31
    with pytest.raises(ArtefactError, match="2 of 2 files .* coordinates without pixels, first a.h5 .*--coords-only"):
        PatchIndex.open(folder, pixels=True)


def test_mixed_settings_are_refused(make_patches: Make) -> None:
    make_patches(slides={"a": (2, 2)}, size=32)
    folder = make_patches(slides={"b": (2, 2)}, size=64)
    with pytest.raises(ArtefactError, match="b.h5 was made with patch_size 64, a.h5 with 32"):
        PatchIndex.open(folder)


def test_folders_without_patches(tmp_path: Path, make_patches: Make) -> None:
    (tmp_path / "void").mkdir()
    for folder, message in (
        (tmp_path / "absent", "no such folder"),
        (tmp_path / "void", "no patches in"),
        (make_patches(slides={"a": (0, 0)}), "no slide in .* has patches"),
    ):
        with pytest.raises(ArtefactError, match=message):
            PatchIndex.open(folder)


@pytest.mark.parametrize("offsets", [[0, 5, 3, 9], [1, 2, 3, 9], [0, 2, 3, 1000]])
def test_offsets_that_lie_are_refused(make_patches: Make, offsets: list[int]) -> None:
    path = make_patches(slides={"a": (3, 1)}) / "patches" / "a.h5"
    with h5py.File(path, "r+") as file:
        if offsets[-1] == 9:
            offsets = [*offsets[:-1], file["jpeg"].size]
        file["jpeg_offsets"][:] = offsets
    with pytest.raises(ArtefactError, match="'jpeg_offsets' does not fit 'jpeg'"):
        PatchFile.open(path)


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), PatchWriter(tmp_path / "patches" / "a.h5") as writer:
        writer.append(b"123")
        raise ZeroDivisionError
    assert list((tmp_path / "patches").iterdir()) == []


def test_overlapping_patches_lie_at_fractions_of_a_patch(make_patches: Make) -> None:
    index = PatchIndex.open(make_patches(slides={"a": (3, 1)}))
    index.files[0].config["overlap"] = 16
    assert index.cells[:, 0].tolist() == [0, 0.5, 1]


def test_foreign_coordinates_lie_by_their_level_0_distance(make_patches: Make) -> None:
    index = PatchIndex.open(make_patches(slides={"a": (3, 1)}))
    index.files[0].grid[:] = -1
    np.testing.assert_allclose(index.cells[:, 0], [0, 1, 2])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_full_disk_is_told_once_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    columns = {
        "coords": np.zeros((1, 2), np.int64),
        "grid": np.zeros((1, 2), np.int32),
        "tissue": np.ones(1, np.float32),
    }
    with pytest.raises(ArtefactError, match="the disk is full"), PatchWriter(tmp_path / "a.h5") as writer:
        writer._blob.close()
        writer._blob = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")
        writer.append(bytes(size))
        writer.finish(**columns, attributes={}, coords_attributes={}, pixels=True)
    assert list(tmp_path.iterdir()) == []
