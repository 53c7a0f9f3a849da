from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.curves import draw_curves, read_metrics


def steps(count: int, **more: float) -> list[dict[str, object]]:
    return [{"step": n, "epoch": n / 4, "loss": {"total": 1.0 / n}, **more} for n in range(1, count + 1)]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_records_are_read_up_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n[2]\n{"step": 3}\n{"step": 4, "lo')
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]


def test_lines_after_a_damaged_one_are_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n' + json.dumps({"step": 3}).encode())
    assert read_metrics(path) == [{"step": 1}]


def test_each_quantity_that_was_recorded_has_a_panel(tmp_path: Path) -> None:
    widths = []
    for more in ({}, {"data_wait": 0.5}, {"data_wait": 0.5, "images_per_second": 80.0}):
        draw_curves(steps(8, **more), tmp_path / "curves.png")
        widths.append(size(tmp_path / "curves.png")[0])
    assert widths == [484, 968, 1452]  # 4.4 inches a panel at 110 dots per inch


def test_a_fourth_panel_starts_a_second_line(tmp_path: Path) -> None:
    records = steps(8, data_wait=0.5, images_per_second=80.0, spread=0.9)
    draw_curves(records, tmp_path / "curves.png")
    assert size(tmp_path / "curves.png") == (1452, 770)
    draw_curves([*records, {"step": 8, "summary": {"epoch": 2, "effective_rank_v": 9.0}}], tmp_path / "more.png")
    with Image.open(tmp_path / "more.png") as image:
        middle = np.asarray(image.convert("L"))[400:700, 484:968]
    assert middle.min() < 128


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_number_that_was_never_finite_has_no_panel(tmp_path: Path, value: float | None) -> None:
    draw_curves(steps(3, data_wait=value), tmp_path / "curves.png")  # type: ignore[arg-type]
    assert size(tmp_path / "curves.png") == (484, 407)


def test_every_panel_has_a_unit_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.axes

    units: list[str] = []
    sentences: list[str] = []
    label, annotate = matplotlib.axes.Axes.set_ylabel, matplotlib.axes.Axes.annotate
    monkeypatch.setattr(matplotlib.axes.Axes, "set_ylabel", lambda s, t, **k: (units.append(t), label(s, t, **k))[1])
    monkeypatch.setattr(
        matplotlib.axes.Axes, "annotate", lambda s, t, *a, **k: (sentences.append(t), annotate(s, t, *a, **k))[1]
    )
    draw_curves(steps(8, data_wait=0.5, images_per_second=80.0), tmp_path / "curves.png")
    assert units == ["loss, nats", "images per second", "seconds a step"]
    assert [sentence[:5] for sentence in sentences] == ["Good:"] * 3
