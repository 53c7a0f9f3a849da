from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.errors import ConfigError
from sgcl_cli.stages.embed.query import Hit, find, write

ANGLES = {"a": [0, 10, 80, 5], "b": [2, 170]}  # degrees of two-dimensional features


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Patches of 512 level-0 pixels in a row, 256 apart on slide a, so that neighbours overlap."""
    found = {}
    for name, angles in ANGLES.items():
        path = found[name] = tmp_path / f"{name}.h5"
        radians = np.deg2rad(np.array(angles, float))
        coords = np.arange(len(angles))[:, None] * [256 if name == "a" else 512, 0]
        columns = {"coords": coords.astype(np.int64), "grid": coords.astype(np.int32)}
        plain = {"slide_id": name, "encoder": "tiny", "encoder_sha256": "e", "patches_id": "p", "config": "{}"}
        with FeatureWriter(path, name, 2, "float32") as writer:
            writer.append((3 * np.stack([np.cos(radians), np.sin(radians)], axis=1)).astype(np.float32))
            writer.finish(columns, plain, {"patch_size_level0": 512, "mpp_actual": 0.5})
    return found


def test_the_most_similar_come_first_and_overlapping_ones_are_left_out(sources: dict[str, Path]) -> None:
    hits = find(sources, "a", 100, 100, 3)
    assert [(hit.slide_id, hit.corner) for hit in hits] == [
        ("a", (0, 0)),
        ("b", (0, 0)),
        ("a", (768, 0)),
        ("a", (512, 0)),
    ]
    assert [hit.similarity for hit in hits] == pytest.approx([1, *np.cos(np.deg2rad([2, 5, 80]))], abs=1e-6)


def test_no_more_are_found_than_asked_for(sources: dict[str, Path]) -> None:
    assert len(find(sources, "a", 100, 100, 1)) == 2


def test_of_several_patches_the_one_with_the_nearest_centre_is_meant(sources: dict[str, Path]) -> None:
    assert find(sources, "a", 500, 256, 1)[0].corner == (256, 0)


def test_a_place_without_a_patch_is_refused_with_the_nearest(sources: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="a has no patch at 5000,20; the nearest begins at 768,0") as caught:
        find(sources, "a", 5000, 20, 1)
    assert caught.value.hint == "give a position on tissue"


def test_an_unknown_slide_is_refused(sources: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="there are no features of slide z") as caught:
        find(sources, "z", 0, 0, 1)
    assert caught.value.hint == "slides: a, b"


def test_hits_are_written_as_a_table_and_a_montage(tmp_path: Path) -> None:
    hits = [Hit("a", (0, 512), 1.0), Hit("b", (256, 0), 0.5)]
    asked: list[tuple[str, tuple[int, int]]] = []

    def show(slide_id: str, corner: tuple[int, int]) -> np.ndarray:
        asked.append((slide_id, corner))
        return np.full((32, 32, 3), 90, np.uint8)

    picture = write(tmp_path, hits, show)
    assert picture.name == "query_a_0_512.png" and asked == [("a", (0, 512)), ("b", (256, 0))]
    with picture.with_suffix(".csv").open(newline="") as stream:
        rows = [*csv.reader(stream)]
    assert rows == [
        ["rank", "slide_id", "x", "y", "similarity"], ["0", "a", "0", "512", "1.0"], ["1", "b", "256", "0", "0.5"]
    ]  # fmt: skip
    pixels = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))
    assert (pixels == 90).all(-1).sum() == pytest.approx(2 * 176**2, rel=0.01)
