from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.lattice import Geometry, Lattice, lay, shares
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.overlay import draw
from sgcl_cli.slide.read import oblong
from sgcl_cli.slide.tissue.focus import Encoded

PERIOD = 128


def coded(axis: int) -> np.ndarray:
    """As ``position_slide``: the phase of the colour tells the position along an axis of the array."""
    phase = 2 * np.pi * (np.arange(1536) + 0.5) / PERIOD
    line = np.stack([np.cos(phase), np.sin(phase), np.zeros_like(phase)], axis=1) * 120 + 128
    across = np.broadcast_to(np.rint(line).astype(np.uint8), (1536, 1536, 3))
    return np.ascontiguousarray(across if axis == 1 else across.swapaxes(0, 1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("resolution", [(0.25, 0.4), (0.4, 0.25), (0.25, 0.5)])
def test_field_of_view_is_exact_to_half_a_pixel_along_both_axes(write_pyramid, position_of, axis, resolution):
    path = write_pyramid("oblong.tif", coded(axis), mpp=resolution, downsamples=(4,))
    corners = np.array([(0, 0), (7, 11), (302, 451), (3, 517)])
    with Slide(path) as slide:
        for mpp in (0.5, 0.63, 1.1, 2.0):
            geometry = Geometry(128, 0, mpp, *slide.mpps)
            fits = corners[(corners + geometry.sides <= 1536).all(axis=1)]
            assert len(fits) > 1
            for position, file in oblong.files(slide, fits, geometry.sides, 128, 97):
                corner, extent = fits[position][1 - axis], geometry.sides[1 - axis]
                positions = position_of(simplejpeg.decode_jpeg(file.jpeg), axis, near=corner)
                step, near = np.polyfit(np.arange(128) + 0.5, positions, 1)
                assert near == pytest.approx(corner, abs=0.5)
                assert near + step * 128 == pytest.approx(corner + extent, abs=0.5)
                assert extent * slide.mpps[1 - axis] == pytest.approx(128 * mpp)


def test_one_axis_may_shrink_while_the_other_grows(write_pyramid):
    """Where pixels are averaged along one axis and enlarged along the other, no detail is skipped."""
    stripes = np.repeat((np.arange(512) % 2 * 200).astype(np.uint8)[None, :, None], 512, 0).repeat(3, 2)
    with Slide(write_pyramid("stripes.tif", stripes, mpp=(0.25, 0.5))) as slide:
        assert (slide.region((0, 0), (256, 122), (128, 128)) == 100).all()


def test_unreadable_patches_are_told(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("a.tif", tissue_like, broken=[(2, 1)])
    with Slide(path) as slide:
        found = dict(oblong.files(slide, np.array([(0, 0), (520, 260)]), (100.0, 200.0), 64, 90))
    assert isinstance(found[0], Encoded) and isinstance(found[1], SlideError)


def test_lattice_of_oblong_pixels():
    geometry = Geometry(100, 20, 0.5, 0.25, 0.5)
    assert (geometry.sides, geometry.strides, geometry.square) == ((200, 100), (160, 80), False)
    lattice = lay(np.ones((2, 2), bool), (400, 200), geometry, 0.5)
    assert lattice.coords.tolist() == [[0, 0], [160, 0], [0, 80], [160, 80]]
    assert lattice.grid.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    left = np.array([[True, False], [True, False]])
    assert shares(left, (400, 200), geometry, lattice).tolist() == pytest.approx([1, 0.2, 1, 0.2])
    with pytest.raises(AssertionError):
        _ = geometry.patch_size_level0


def test_overlay_frames_are_square_on_the_square_thumbnail():
    white = np.full((1200, 1200, 3), 255, np.uint8)
    lattice = Lattice(np.array([[400, 300]]), np.zeros((1, 2), np.int32), np.ones(1, np.float32))
    picture = draw(white, (2400, 1200), np.zeros((1200, 1200), bool), lattice, (200, 100))
    rows, columns = np.nonzero((picture != 255).any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (300, 400, 200, 300)
