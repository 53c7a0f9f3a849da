"""Attributes that CLAM and TRIDENT read."""

from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.artefacts import peers
from sgcl_cli.artefacts.peers import Level

BASE = Level(0, (13198, 11685), 1.0)
SIDE = 256 * 0.5 / 0.2528


def test_tridents_side_is_whole_and_the_exact_one_is_ours() -> None:
    made = peers.square(SIDE, 256, 0.2528, BASE)
    assert made["patch_size"] == 256 and made["patch_size_level0"] == 506 and type(made["patch_size_level0"]) is int
    assert made["patch_size_level0_xy"].tolist() == [SIDE, SIDE]
    assert made["level0_magnification"] == 40
    assert 256 * 40 / made["target_magnification"] == pytest.approx(SIDE)
    assert "patch_level" not in made


def test_clams_level_is_told_where_it_has_the_patches_resolution() -> None:
    level = Level(1, (3299, 2921), 4.0005)
    made = peers.square(4 * 256, 256, 0.25, level)
    assert made["patch_level"] == 1 and made["downsample"].tolist() == [4.0005, 4.0005]
    assert made["level_dim"].tolist() == made["downsampled_level_dim"].tolist() == [3299, 2921]
    assert "patch_level" not in peers.square(4 * 256 + 0.7, 256, 0.25, level)


def test_in_pixels_of_a_level_both_peers_see_the_same_patch() -> None:
    made = peers.of_level(SIDE, 0.2528, BASE)
    assert (made["patch_level"], made["patch_size"], type(made["patch_size"])) == (0, 506, int)
    assert 506 * 40 / made["target_magnification"] == pytest.approx(SIDE)
    assert peers.of_level(4 * SIDE, 0.2528, Level(1, (3299, 2921), 4.0))["patch_size"] == 506
    assert peers.of_level(0.6, 0.2528, Level(1, (3299, 2921), 4.0))["patch_size"] == 1


def test_sides_are_told_by_the_exact_attribute_first_and_by_older_files_too() -> None:
    assert peers.sides({"patch_size_level0": 506, "patch_size_level0_xy": [506.3, 400.1]}).tolist() == [506.3, 400.1]
    assert peers.sides({"patch_size_level0": 506.3}).tolist() == [506.3, 506.3]
    assert peers.sides({"patch_size": 256}) is None


def test_features_of_older_patches_carry_a_whole_side_too() -> None:
    made = peers.whole({"patch_size_level0": 506.3, "name": "a"})
    assert made["patch_size_level0"] == 506 and type(made["patch_size_level0"]) is int and made["name"] == "a"
    assert made["patch_size_level0_xy"].tolist() == [506.3, 506.3]
    assert peers.whole({"patch_size_level0": np.int64(506)}) == {"patch_size_level0": 506}
    assert peers.whole({"patch_size_level0_xy": [3.0, 4.0]}) == {"patch_size_level0_xy": [3.0, 4.0]}
