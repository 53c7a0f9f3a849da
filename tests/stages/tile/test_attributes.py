from __future__ import annotations

import pytest

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from tests.stages.tile.made import (
    SIDE,
    config,
    write_slide,
)


def test_attributes_that_other_readers_look_for(tmp_path, inline):
    path = write_slide(tmp_path / "a.tif", mpp=0.5)
    trident = {"patch_size_level0", "level0_magnification", "target_magnification", "savetodir", "level0_width"}
    clam = {"patch_level", "downsample", "level_dim", "downsampled_level_dim"}
    settings = {"min_tissue": 0.0, "coords_only": True}
    tile(config(tmp_path / "exact", path, mpp=0.5, **settings), Silent())
    tile(config(tmp_path / "between", path, mpp=0.8, overlap=16, **settings), Silent())
    exact = PatchFile.open(tmp_path / "exact" / "patches" / "a.h5").geometry
    between = PatchFile.open(tmp_path / "between" / "patches" / "a.h5").geometry
    assert trident <= set(exact) and clam <= set(exact)
    assert (exact["patch_level"], exact["level_dim"], exact["downsample"]) == (0, [SIDE, SIDE], [1.0, 1.0])
    assert trident <= set(between) and not clam & set(between)
    assert between["patch_size"] == 64 and between["overlap"] == 16
    assert between["patch_size_level0"] == 102 and type(between["patch_size_level0"]) is int
    assert between["patch_size_level0_xy"] == pytest.approx([64 * 1.6] * 2)
    assert between["stride0"] == pytest.approx(48 * 1.6)
    assert (between["level0_magnification"], between["target_magnification"]) == (20, 12.5)
    assert (between["mpp_level0"], between["mpp_target"], between["mpp_actual"]) == (0.5, 0.8, 0.8)
