"""Where patches lie on pictures of their slides, for features that other tools made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.errors import ConfigError, SlideError
from sgcl_cli.stages.evaluate.places import Places, sides_of

SLIDES = Path(__file__).parents[3] / "sample_data" / "slides"
GRID = np.stack(np.meshgrid(np.arange(3) * 256, np.arange(2) * 256), -1).reshape(-1, 2)


def features(slide_id: str = "sample_generic_050", coords=GRID, **geometry) -> FeatureFile:
    count = 6 if coords is None else len(coords)
    return FeatureFile(Path(f"{slide_id}.h5"), slide_id, np.zeros((count, 2)), coords, geometry=geometry)


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ({"patch_size_level0": 512}, [512, 512]),
        ({"patch_size_level0": 512, "patch_size_level0_xy": np.array([510.5, 1021.0])}, [510.5, 1021]),
        ({"patch_size_level0": "wide"}, [256, 256]),
        ({"patch_size_level0": -1}, [256, 256]),
        ({}, [256, 256]),
    ],
)
def test_the_side_of_a_patch_is_what_is_recorded_else_the_step_of_the_coordinates(geometry, expected):
    assert sides_of(features(**geometry)).tolist() == expected


def test_a_step_is_the_commonest_one_and_grids_may_begin_anywhere():
    contours = np.concatenate([GRID, GRID + np.array([5000, 77]), [[9000, 0]]])
    assert sides_of(features(coords=contours[::-1])).tolist() == [256, 256]
    assert sides_of(features(coords=np.array([[0, 0], [300, 300]]))) is None
    assert sides_of(features(coords=None)) is None


def test_patches_lie_on_the_slide_itself_where_no_thumbnail_is_known():
    places = Places(None, str(SLIDES))
    placed = places.of(features())
    assert placed is not None and placed.thumbnail.ndim == 3
    height, width = placed.thumbnail.shape[:2]
    assert (round(width * placed.scale[0]), round(height * placed.scale[1])) == (1833, 1853)
    assert placed.sides.tolist() == [256, 256]
    assert places.of(features("another")) is None
    places.check()


def test_a_folder_without_any_of_the_slides_is_refused(tmp_path):
    places = Places(None, str(SLIDES))
    assert places.of(features("another")) is None
    with pytest.raises(ConfigError, match="--slides .* holds none of the slides"):
        places.check()
    with pytest.raises((ConfigError, SlideError)):
        Places(None, str(tmp_path / "nowhere"))
