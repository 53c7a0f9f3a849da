from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.config import PredictConfig
from sgcl_cli.slide import colours as colours_of
from sgcl_cli.stages.predict.applied import Applied, Rows
from sgcl_cli.stages.predict.pictures import colours, draw

CARD: dict[str, Any] = {"classes": ["normal", "tumour"], "task": "binary", "level": "patch"}
CORNERS = np.array([[0, 0], [512, 0], [0, 512]])
FIRST, SECOND = colours_of.of_class(0), colours_of.of_class(1)


def test_colours_are_those_of_the_likeliest_class_and_paler_in_doubt() -> None:
    found = colours(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.75, 0.25]]))
    assert found[:3].tolist() == [[*FIRST], [*SECOND], [235] * 3]
    assert found[3].tolist() == np.rint((235 + np.array(FIRST)) / 2).tolist()


def rows_of(coords: np.ndarray | None, geometry: dict[str, Any] | None) -> Rows:
    file = FeatureFile(Path("a.h5"), "a", np.zeros((3, 2), np.float32), coords=coords, geometry=geometry)
    return Rows.of((file,), "patch")


def applied() -> dict[str, Applied]:
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    return {"linear": Applied("Linear", {"1": values}, np.ones((1, 3), np.bool_), None)}


def test_patches_are_painted_on_a_map_of_their_slide(tmp_path: Path) -> None:
    config = PredictConfig(out=str(tmp_path), result="m", features="f")
    drawn = draw(config, CARD, rows_of(CORNERS, {"patch_size_level0": 512}), applied())
    assert drawn.files == ["maps/a.png"]
    pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "maps" / "a.png").read_bytes())).convert("RGB"))
    side = pixels.shape[0] // 2
    assert tuple(pixels[side // 2, side // 2]) == FIRST
    assert tuple(pixels[side // 2, side + side // 2]) == tuple(pixels[side + side // 2, side // 2]) == SECOND
    (section,) = drawn.sections
    assert section.pictures[0].caption == "a: 1 normal, 2 tumour."
    assert section.classes == [("normal", "#00eeee"), ("tumour", "#ffcc00")]


@pytest.mark.parametrize("coords", [None, np.array([[0, 0], [0, 0], [0, 0]])])
def test_slides_without_places_have_no_map(tmp_path: Path, coords: np.ndarray | None) -> None:
    config = PredictConfig(out=str(tmp_path), result="m", features="f")
    drawn = draw(config, CARD, rows_of(coords, None), applied())
    assert (drawn.files, drawn.sections, [*tmp_path.iterdir()]) == ([], [], [])


def test_slides_without_attention_have_no_pictures(tmp_path: Path) -> None:
    rows = Rows.of(rows_of(CORNERS, None).files, "slide")
    drawn = draw(PredictConfig(out=str(tmp_path), result="m", features="f"), CARD, rows, applied())
    assert (drawn.files, drawn.sections) == ([], [])
