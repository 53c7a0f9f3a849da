from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.neighbours import COLOURS, Anchor, NeighbourRow, draw_neighbours

GREEN = np.full((16, 16, 3), (0, 200, 0), np.uint8)
PLACES = np.array([[128.0, 128.0], [900.0, 640.0]])
TISSUE = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), -1).reshape(-1, 2) * 256 + 128


def anchor(*rows: NeighbourRow, thumbnail: np.ndarray | None = None) -> Anchor:
    picture = np.full((16, 16, 3), (200, 0, 0), np.uint8)
    return Anchor("slide $a_1$", picture, (640.0, 384.0), TISSUE, 256.0, thumbnail, (1280.0, 1024.0), rows)


def row(count: int = 2, elsewhere: bool = False, places: np.ndarray = PLACES) -> NeighbourRow:
    return NeighbourRow("positives", [GREEN] * count, ["0.51"] * count, [elsewhere] * count, places)


def drawn(path: Path, *anchors: Anchor) -> np.ndarray:
    draw_neighbours(anchors, path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((np.abs(picture - colour).max(-1) < 12).sum())


def rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(name[1:]))


def test_each_anchor_adds_a_block(tmp_path: Path) -> None:
    heights = [drawn(tmp_path / "n.png", *[anchor(row())] * count).shape[0] for count in (1, 2)]
    assert heights == [698, 1193]  # 6.35 and 10.85 inches at 110 dots per inch


def test_pictures_share_the_width_of_the_longest_row(tmp_path: Path) -> None:
    alike = near(drawn(tmp_path / "n.png", anchor(row(4), row(4))), (0, 200, 0))
    shorter = near(drawn(tmp_path / "n.png", anchor(row(4), row(1))), (0, 200, 0))
    assert 0.58 < shorter / alike < 0.67  # five pictures of eight


def test_a_patch_of_another_slide_has_a_dashed_frame(tmp_path: Path) -> None:
    none = np.zeros((0, 2))
    solid = near(drawn(tmp_path / "n.png", anchor(row(places=none))), rgb(COLOURS[0]))
    dashed = near(drawn(tmp_path / "n.png", anchor(row(elsewhere=True, places=none))), rgb(COLOURS[0]))
    assert 0.4 < dashed / solid < 0.9


def test_the_thumbnail_takes_the_place_of_the_patches(tmp_path: Path) -> None:
    cyan = np.full((16, 20, 3), (10, 180, 180), np.uint8)
    assert near(drawn(tmp_path / "n.png", anchor(row())), (10, 180, 180)) == 0
    picture = drawn(tmp_path / "n.png", anchor(row(), thumbnail=cyan))
    assert near(picture, (10, 180, 180)) > 20_000


def test_the_anchor_lies_at_its_place(tmp_path: Path) -> None:
    def centre(place: tuple[float, float]) -> tuple[float, float]:
        picture = drawn(tmp_path / "n.png", replace(anchor(row()), place=place))[:, : int(0.28 * 1309)]
        ring = np.argwhere(picture[70:, :300].max(-1) < 12).mean(0)
        return float(ring[1]), float(ring[0])

    left, right, low = centre((256.0, 256.0)), centre((1024.0, 256.0)), centre((256.0, 768.0))
    assert right[0] - left[0] > 100 and abs(right[1] - left[1]) < 1
    assert (low[1] - left[1]) / (right[0] - left[0]) - 512 / 768 < 0.02


def test_the_picture_says_how_wide_an_anchor_is_and_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.axes

    said: list[str] = []
    for name in ("set_title", "set_xlabel"):
        whole = getattr(matplotlib.axes.Axes, name)
        monkeypatch.setattr(
            matplotlib.axes.Axes, name, lambda s, text, whole=whole, **k: (said.append(text), whole(s, text, **k))[1]
        )
    drawn(tmp_path / "n.png", replace(anchor(row()), mpp=0.5))
    assert "anchor, 128 µm wide" in said and "x on the slide, mm" in said
    said.clear()
    drawn(tmp_path / "n.png", anchor(row()))
    assert "anchor" in said and "x on the slide, level-0 pixels" in said


def test_ticks_are_round_numbers_of_mm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.axes

    found: list[list[str]] = []
    whole = matplotlib.axes.Axes.set_xticks
    monkeypatch.setattr(
        matplotlib.axes.Axes,
        "set_xticks",
        lambda s, places, labels=None: (found.append(labels), whole(s, places, labels))[1],
    )
    drawn(tmp_path / "n.png", replace(anchor(row()), mpp=2.63))
    assert found == [["0", "1.5", "3"], None]  # the slide, and the anchor without any
