"""Peers' conventions: their readers on our files; ``test_coordinates`` has their coordinate files in our runs."""

from __future__ import annotations

import cv2
import pytest

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.errors import ConfigError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from tests.stages.tile.peers import agree, clam_patches, config, trident_patches, write_slide


@pytest.mark.parametrize("mpp", [2.0, 8.0])
def test_clams_reader_sees_the_same_patches(tmp_path, inline, mpp):
    slide = write_slide(tmp_path / "in" / "s 1.tif")
    tile(config(tmp_path / "out", slide, mpp=mpp, min_tissue=0.0), Silent())
    agree(PatchIndex.open(tmp_path / "out"), clam_patches(tmp_path / "out", slide))


@pytest.mark.parametrize(("mpp", "level", "size"), [(3.2, 0, 102), (8.0, 1, 64), (12.0, 1, 96), (2.1, 0, 67)])
def test_clam_reads_our_files_at_any_resolution(tmp_path, inline, mpp, level, size):
    """In pixels of the level that resolves the patches, as many as are nearest to their field of view."""
    slide = write_slide(tmp_path / "in" / "s.tif")
    settings = {"mpp": mpp, "min_tissue": 0.0, "layout": "clam", "overlap": 32}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    index = PatchIndex.open(tmp_path / "out", pixels=True)
    made = index.files[0].geometry
    assert (made["patch_level"], made["patch_size"]) == (level, size)
    assert made["patch_size_level0_xy"] == pytest.approx([64 * mpp / 2] * 2) == index.files[0].sides
    assert index.patch_size == 64 and index.mpp == mpp and not {"overlap", "stride"} & set(made)
    theirs = clam_patches(tmp_path / "out", slide)
    resized = [(corner, cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)) for corner, pixels in theirs]
    agree(index, resized)


def test_files_in_one_peers_pixels_do_not_pass_for_the_others(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "s.tif")
    tile(config(tmp_path / "clam", slide, layout="clam"), Silent())
    assert tile(config(tmp_path / "clam", slide, layout="clam"), Silent()).data["skipped"] == 1
    with pytest.raises(ConfigError, match="--layout was clam, is sgcl"):
        tile(config(tmp_path / "clam", slide), Silent())
    tile(config(tmp_path / "ours", slide), Silent())
    with pytest.raises(ConfigError, match="--layout was sgcl, is clam"):
        tile(config(tmp_path / "ours", slide, layout="clam"), Silent())


@pytest.mark.parametrize(
    ("mpp", "overlap", "name"), [(2.0, 16, "5x_64px_16px_overlap"), (3.2, 0, "5x_64px_0px_overlap")]
)
def test_tridents_reader_sees_the_same_patches_in_its_tree(tmp_path, inline, mpp, overlap, name):
    slide = write_slide(tmp_path / "in" / "s.1.tif")
    settings = {"mpp": mpp, "overlap": overlap, "min_tissue": 0.0, "layout": "trident"}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    assert not (tmp_path / "out" / "patches").exists()
    agree(PatchIndex.open(tmp_path / "out", pixels=True), trident_patches(tmp_path / "out" / name, slide))


def test_layouts_hold_the_same_patches_and_do_not_mix(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "a.tif")
    tile(config(tmp_path / "ours", slide), Silent())
    tile(config(tmp_path / "theirs", slide, layout="trident"), Silent())
    ours, theirs = PatchIndex.open(tmp_path / "ours"), PatchIndex.open(tmp_path / "theirs")
    assert ours.id == theirs.id
    assert ours.files[0].path.read_bytes() == theirs.files[0].path.read_bytes()
    with pytest.raises(ConfigError, match="holds patches in 5x_64px_0px_overlap/patches"):
        tile(config(tmp_path / "theirs", slide), Silent())
    with pytest.raises(ConfigError, match="holds patches in 5x_64px_0px_overlap/patches"):
        tile(config(tmp_path / "theirs", slide, layout="trident", patch_size=32, overwrite=True), Silent())


def test_tridents_tree_is_resumed_and_overwritten(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "a.tif")
    settings = {"layout": "trident"}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    (made,) = (tmp_path / "out").glob("*x_*/patches/*.h5")
    before = made.stat().st_mtime_ns
    assert tile(config(tmp_path / "out", slide, **settings), Silent()).data["skipped"] == 1
    assert made.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="--min-tissue was 0.5, is 0.4"):
        tile(config(tmp_path / "out", slide, min_tissue=0.4, **settings), Silent())
    tile(config(tmp_path / "out", slide, min_tissue=0.4, overwrite=True, **settings), Silent())
    assert PatchFile.open(made).config["min_tissue"] == 0.4
