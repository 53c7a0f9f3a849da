from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.slide.lattice import Geometry, box_shares, cells, lay, shares


def test_literal_lattice():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 1:5] = True
    lattice = lay(mask, (600, 400), Geometry(200, 0, 0.5, 0.5), 0.5)
    assert lattice.coords.tolist() == [[200, 0], [200, 200]]
    assert lattice.grid.tolist() == [[1, 0], [1, 1]]
    assert lattice.tissue.tolist() == [0.5, 0.5]
    assert (lattice.coords.dtype, lattice.grid.dtype, lattice.tissue.dtype) == (np.int64, np.int32, np.float32)


def test_order_is_row_by_row_and_zero_keeps_all():
    geometry = Geometry(100, 0, 0.5, 0.5)
    lattice = lay(np.zeros((3, 2), bool), (250, 350), geometry, 0.0)
    assert lattice.grid.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2]]
    assert cells((250, 350), geometry) == 6


@pytest.mark.parametrize("mpp_level0", [0.25, 0.2528, 0.263018, 0.5044, 0.31])
@pytest.mark.parametrize("overlap", [0, 64, 255])
def test_corners_are_rounded_multiples_and_patches_lie_inside(mpp_level0, overlap):
    geometry = Geometry(256, overlap, 0.5, mpp_level0)
    for length in (5000, 4999, 1013, round(geometry.patch_size_level0) + 1):
        corners = geometry.corners(length)
        assert corners.tolist() == [int(np.floor(i * geometry.stride_level0 + 0.5)) for i in range(len(corners))]
        exact = np.arange(len(corners) + 1) * geometry.stride_level0 + geometry.patch_size_level0
        assert exact[-2] <= length + 1e-6 and exact[-1] > length + 1e-6
        assert corners[-1] + geometry.patch_size_level0 <= length + 0.5 + 1e-6


def test_a_patch_that_fits_exactly_is_not_lost_to_rounding():
    """Ten patches of 358.4 level-0 pixels on 3584: the ninth corner, 3225.6, is rounded to 3226."""
    geometry = Geometry(128, 0, 0.7, 0.25)
    assert geometry.corners(3584).tolist() == [0, 358, 717, 1075, 1434, 1792, 2150, 2509, 2867, 3226]
    assert cells((3584, 2509), geometry) == 70 and cells((3583, 2508), geometry) == 54


def test_field_of_view_and_stride_are_exact():
    geometry = Geometry(256, 32, 0.5, 0.263018)
    assert geometry.patch_size_level0 == pytest.approx(256 * 0.5 / 0.263018)
    assert geometry.stride_level0 == pytest.approx(224 * 0.5 / 0.263018)


def test_slide_of_exactly_one_patch_and_smaller():
    geometry = Geometry(256, 0, 0.5, 0.5)
    assert cells((256, 256), geometry) == 1
    assert cells((255, 256), geometry) == 0
    assert cells((10, 10), geometry) == 0
    assert len(lay(np.ones((1, 1), bool), (255, 256), geometry, 0.5)) == 0


def test_shares_are_exact_for_fractional_boxes():
    random = np.random.default_rng(3)
    mask = random.random((12, 16)) < 0.5
    size, side = (160, 120), 23.7
    xs, ys = np.array([0, 7, 61, 136]), np.array([0, 33, 96])
    share = box_shares(mask, size, xs, ys, (side, side))
    fine = 100
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            centres = (np.arange(int(side * fine)) + 0.5) / fine
            inside = mask[np.ix_(((y + centres) / 10).astype(int), ((x + centres) / 10).astype(int))]
            assert share[row, column] == pytest.approx(inside.mean(), abs=1e-3)
    assert (box_shares(np.ones_like(mask), size, xs, ys, (side, side)) == 1).all()
    assert (box_shares(np.zeros_like(mask), size, xs, ys, (side, side)) == 0).all()


def test_shares_of_another_mask_at_the_kept_patches():
    mask = np.zeros((10, 20), bool)
    mask[:, 5:] = True
    geometry = Geometry(40, 0, 0.5, 0.5)
    lattice = lay(mask, (200, 100), geometry, 0.5)
    marked = np.zeros((10, 20), bool)
    marked[0:2, 8:10] = True
    found = dict(zip(map(tuple, lattice.grid.tolist()), shares(marked, (200, 100), geometry, lattice), strict=True))
    assert found == {cell: 0.25 if cell == (2, 0) else 0.0 for cell in found} and (2, 0) in found
