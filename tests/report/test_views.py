from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.views import ShownViews, draw_views

CELL = 137.5  # dots: 1.25 inches at 110 dots per inch


def flat(*colour: int) -> np.ndarray:
    return np.full((16, 16, 3), colour, np.uint8)


PATCH, VIEW, CORNER = flat(200, 0, 0), flat(0, 200, 0), flat(0, 0, 200)


def drawn(path: Path, rows: list[ShownViews], note: str = "") -> np.ndarray:
    draw_views(rows, path, note=note)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("views", "corners"), [(2, 4), (1, 0)])
def test_the_picture_has_a_column_for_each_view_and_a_row_for_each_patch(
    tmp_path: Path, views: int, corners: int
) -> None:
    rows = [ShownViews(f"slide {n}", PATCH, [VIEW] * views, [CORNER] * corners) for n in range(3)]
    height, width = drawn(tmp_path / "views.png", rows).shape[:2]
    assert (width, height) == pytest.approx((CELL * (1 + views + corners), 3 * CELL + 77), abs=1)


def test_columns_are_the_patch_then_views_then_corners(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "views.png", [ShownViews("slide", PATCH, [VIEW] * 2, [CORNER] * 4)])
    line = 33 + int(CELL / 4)
    found = [tuple(picture[line, int(CELL * (column + 0.25))].tolist()) for column in range(7)]
    assert found == [(200, 0, 0), *[(0, 200, 0)] * 2, *[(0, 0, 200)] * 4]


def test_quarters_are_drawn_where_there_are_corner_views(tmp_path: Path) -> None:
    def accent(corners: list[np.ndarray]) -> int:
        picture = drawn(tmp_path / "views.png", [ShownViews("slide", PATCH, [VIEW], corners)]).astype(int)
        return int((picture[33:160, : int(CELL), 1] > 40).all(axis=0).sum())

    column = accent([CORNER] * 4) - accent([])
    assert column >= 1


def test_a_long_note_does_not_widen_the_picture(tmp_path: Path) -> None:
    rows = [ShownViews("$slide_1$", PATCH, [VIEW], [])]
    plain, noted = drawn(tmp_path / "a.png", rows), drawn(tmp_path / "b.png", rows, "how strong the views are " * 4)
    assert plain.shape == noted.shape
    assert plain[-40:].min() == 255 and noted[-40:].min() < 200
