from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import ObjectiveOptions, ViewOptions
from sgcl_cli.engine.views import ViewSettings
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.progress import Silent
from sgcl_cli.stages.pretrain.pictures import picture_curves, picture_neighbours, picture_views
from sgcl_cli.stages.pretrain.warnings import WarningKind, Warnings


def test_views_are_drawn_of_a_corpus(make_patches: Callable[..., Path], tmp_path: Path, pictures: None) -> None:
    index = PatchIndex.open(make_patches())
    settings = ViewSettings.of(ViewOptions(), index.patch_size)
    assert picture_views(index, settings, tmp_path, seed=0, corners=True) == []
    with Image.open(tmp_path / "views.png") as image:
        assert min(image.size) > 200


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({}, True),
        ({"weight_spatial": 0.0}, True),
        ({"base": "moco"}, True),
        ({"base": "moco", "weight_spatial": 0.0}, False),
    ],
)
def test_neighbours_are_drawn_of_objectives_with_a_bank_of_v(
    make_patches: Callable[..., Path], tmp_path: Path, pictures: None, options: dict[str, object], drawn: bool
) -> None:
    index = PatchIndex.open(make_patches(), pixels=True)
    given = {"weight_inner": 0.0, "negatives": 8, "neighbours": 4, **options}
    settings, _ = resolve(ObjectiveOptions(**given), len(index), 2, 8)
    place = torch.from_numpy(index.slide_of), torch.from_numpy(index.cells)
    objective = SGCL(settings, *place, dim=8, hidden_dim=8, seed=0, device="cpu")
    assert (objective.bank_v is not None) == drawn
    assert picture_neighbours(index, objective, tmp_path, step=0) == []
    assert [path.name for path in tmp_path.glob("*.png")] == ["neighbours.png"] * drawn


def test_without_matplotlib_one_warning_stands_for_all_pictures(
    make_patches: Callable[..., Path], tmp_path: Path, without_matplotlib: None, pictures: None
) -> None:
    index = PatchIndex.open(make_patches())
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("")
    found = [
        picture_views(index, ViewSettings.of(ViewOptions(), 32), tmp_path, seed=0, corners=False),
        picture_curves(metrics, tmp_path),
    ]
    assert [[warning.kind for warning in each] for each in found] == [[WarningKind.NO_PICTURES]] * 2
    reporter = Silent()
    warnings = Warnings(reporter)
    for each in found:
        warnings.show(each)
    assert len(reporter.warnings) == 1 and "matplotlib is not installed" in reporter.warnings[0]
    assert not list(tmp_path.glob("*.png"))
