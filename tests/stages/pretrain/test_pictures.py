from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.config import PretrainConfig
from sgcl_cli.report import neighbours, views
from sgcl_cli.stages.pretrain.pictures import picture_curves, picture_neighbours, picture_views
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]
pytestmark = pytest.mark.usefixtures("pictures")


def test_views_are_of_patches_of_all_slides(
    tiny_config: PretrainConfig, make_training: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(views, "draw_views", lambda rows, path, note: asked.update(rows=rows, path=path, note=note))
    experiment = make_training(tiny_config).experiment
    assert picture_views(experiment.index, experiment.views, tmp_path, seed=0, corners=True) == []
    rows = asked["rows"]
    assert asked["path"] == tmp_path / "views.png" and [row.name for row in rows] == ["a"] * 3 + ["b"] * 3
    assert {(len(row.views), len(row.corners)) for row in rows} == {(3, 4)}
    assert rows[0].views[0].shape == (28, 28, 3) and not np.array_equal(rows[0].views[0], rows[0].views[1])
    stored = [np.asarray(Image.open(io.BytesIO(experiment.index.read(i)))).astype(int) for i in range(6)]
    assert min(np.abs(rows[0].patch - one).max() for one in stored) <= 3
    assert asked["note"].startswith("view 28 px from ") and ", corner " in asked["note"]


def test_quarters_are_left_out_where_the_objective_has_none(
    tiny_config: PretrainConfig, make_training: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    corners: list[int] = []
    monkeypatch.setattr(views, "draw_views", lambda rows, path, note: corners.extend(len(row.corners) for row in rows))
    experiment = make_training(tiny_config).experiment
    picture_views(experiment.index, experiment.views, tmp_path, seed=0, corners=False)
    assert corners == [0] * 6


def test_neighbours_are_of_anchors_from_the_bank(
    tiny_config: PretrainConfig, make_training: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[neighbours.Anchor] = []
    monkeypatch.setattr(neighbours, "draw_neighbours", lambda anchors, path: drawn.extend(anchors))
    training = make_training(tiny_config)
    index = training.experiment.index
    assert picture_neighbours(index, training.state.objective, tmp_path, step=0) == []
    assert 1 <= len(drawn) <= 4 and {anchor.slide for anchor in drawn} <= {"a", "b"}
    for anchor in drawn:
        kinds = [row.name.partition(",")[0].partition(":")[0] for row in anchor.rows]
        assert kinds == ["spatial positives", "propagated positives", "negatives", "nearest in the bank"]
        assert anchor.thumbnail is None and len(anchor.tissue) == {"a": 16, "b": 15}[anchor.slide]
        assert list(anchor.place) in anchor.tissue.tolist() and anchor.tissue[0].tolist() == [16, 16]
        for row in anchor.rows:
            assert len(row.pictures) == len(row.captions) == len(row.elsewhere)
            assert len(row.places) == row.elsewhere.count(False)


def test_curves_are_drawn_from_the_metrics(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps({"step": n, "epoch": n, "loss": {"total": 1.0}}) + "\n" for n in (1, 2)))
    assert picture_curves(metrics, tmp_path) == []
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"


def test_without_matplotlib_there_is_one_warning_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sgcl_cli.report.curves", None)
    said = picture_curves(tmp_path / "metrics.jsonl", tmp_path)
    assert said == [
        "matplotlib is not installed: views.png, curves.png and neighbours.png are skipped; "
        "metrics.jsonl has the numbers of the curves"
    ]
    assert [*tmp_path.iterdir()] == []
