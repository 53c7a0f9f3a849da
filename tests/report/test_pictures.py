from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.curves import _PANELS, _smooth, _values, draw_curves, read_metrics
from sgcl_cli.report.neighbours import Anchor, NeighbourRow, draw_neighbours
from sgcl_cli.report.views import ShownViews, draw_views


def _flat(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((16, 16, 3), (red, green, blue), np.uint8)


def _shares(path: Path, *colours: tuple[int, int, int]) -> list[float]:
    """The share of a picture's pixels that have exactly a colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return [float((pixels == colour).all(-1).mean()) for colour in colours]


def test_views_show_every_picture_of_every_patch(tmp_path: Path) -> None:
    view, corner = _flat(0, 200, 0), _flat(0, 0, 200)
    rows = [ShownViews(f"slide {n}", _flat(200, 0, 0), [view] * 3, [corner] * 4) for n in range(2)]
    draw_views(rows, tmp_path / "views.png", note="how strong " * 40)
    patch, views, corners = _shares(tmp_path / "views.png", (200, 0, 0), (0, 200, 0), (0, 0, 200))
    assert views / patch == pytest.approx(3, rel=0.25) and corners / views == pytest.approx(4 / 3, rel=0.1)
    draw_views([ShownViews("$a_b$", _flat(200, 0, 0), [view], [])], tmp_path / "alone.png", note="")
    assert _shares(tmp_path / "alone.png", (0, 0, 200)) == [0]


@pytest.mark.parametrize("thumbnail", [None, _flat(10, 180, 180)])
def test_neighbours_show_the_slide_and_the_pictures(tmp_path: Path, thumbnail: np.ndarray | None) -> None:
    tissue = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), -1).reshape(-1, 2) * 256 + 128
    rows = [
        NeighbourRow("spatial positives, 2 of 9", [_flat(0, 200, 0)] * 2, ["0.51", "0.40"], [False, True], tissue[:1]),
        NeighbourRow("propagated positives: none", [], [], [], tissue[:0]),
        NeighbourRow("semi-hard negatives", [_flat(0, 0, 200)], ["-0.10"], [True], tissue[:0]),
    ]
    anchor = Anchor(
        "a $slide_x$ " + "long " * 20, _flat(200, 0, 0), (384.0, 384.0), tissue, 256.0, thumbnail, (1280, 1024), rows
    )
    draw_neighbours([anchor, anchor], tmp_path / "neighbours.png")
    mine, green, blue = _shares(tmp_path / "neighbours.png", (200, 0, 0), (0, 200, 0), (0, 0, 200))
    assert mine > green > blue > 0 and green / blue == pytest.approx(2, rel=0.1)
    shown = _shares(tmp_path / "neighbours.png", (10, 180, 180))[0]
    assert shown > 0.05 if thumbnail is not None else shown == 0


def _records() -> list[dict]:
    steps = [
        {
            "step": n,
            "epoch": n / 10,
            "lr": 0.1,
            "ramp": 1.0,
            "loss": {"total": 3.0, "self": 1.0, "spatial": 1.0, "inner": 1.0},
            "spread": 0.5,
            "propagated_same_slide": None,
        }
        for n in range(1, 21)
    ]
    return [
        *steps,
        {"step": 10, "summary": {"epoch": 1.0, "effective_rank_v": 30.0, "probe": {"balanced_accuracy": 0.7}}},
    ]


def test_curves_leave_out_what_was_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.axes

    titles: list[str] = []
    whole = matplotlib.axes.Axes.set_title
    monkeypatch.setattr(matplotlib.axes.Axes, "set_title", lambda s, t, **k: (titles.append(t), whole(s, t, **k))[1])
    draw_curves(_records(), tmp_path / "curves.png")
    assert titles == [
        "Loss by term",
        "Spread of the embeddings",
        "Effective rank of the banks",
        "Probe: nearest neighbours on labels",
        "Schedule",
    ]
    assert len(_PANELS) == 9 and (tmp_path / "curves.png").stat().st_size > 10_000


def test_curves_are_of_the_terms_that_were_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.axes

    drawn: list[str] = []
    whole = matplotlib.axes.Axes.plot
    monkeypatch.setattr(
        matplotlib.axes.Axes, "plot", lambda s, *a, **k: (drawn.append(k["label"]), whole(s, *a, **k))[1]
    )
    draw_curves(_records(), tmp_path / "sgcl.png")
    assert drawn[:4] == ["self", "spatial", "inner", "total"]
    drawn.clear()
    steps = [{"epoch": n / 10, "loss": {"total": 3.0, "one": 1.0, "two": 2.0}} for n in range(1, 4)]
    draw_curves(steps, tmp_path / "other.png")
    assert drawn == ["one", "two", "total"]


def test_numbers_are_found_by_their_dotted_names() -> None:
    values = _values([{"loss": {"total": 2}}, {"loss": None}, {}, {"loss": {"total": None}}], "loss.total")
    np.testing.assert_array_equal(values, [2, np.nan, np.nan, np.nan])


def test_smoothing_is_a_running_mean_that_passes_over_gaps() -> None:
    values = np.ones(300)
    values[100:150], values[5] = 3.0, np.nan
    smooth = _smooth(values)
    assert np.isfinite(smooth).all() and smooth[0] == 1 and smooth[125] == 3 and smooth[100] == pytest.approx(7 / 3)
    np.testing.assert_array_equal(_smooth(np.array([1.0, np.nan])), [1, np.nan])


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1}]
