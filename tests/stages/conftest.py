from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sgcl_cli.config import PretrainConfig
from sgcl_cli.probe.models import linear
from sgcl_cli.report import evaluation
from sgcl_cli.stages.embed import slide_source
from sgcl_cli.stages.evaluate import report
from sgcl_cli.stages.tile import annotations as drawings
from sgcl_cli.stages.tile import run as tile_stage
from tests.stages.inline import run_tasks


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slides are processed in the test's own process; the pool is tested elsewhere."""
    for stage in (tile_stage, drawings, slide_source):
        monkeypatch.setattr(stage, "run_tasks", run_tasks)


@pytest.fixture
def pictures() -> None:
    """Request this fixture to have a pretraining run draw its pictures."""


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training on a few small patches, so pretraining draws only if a test uses ``pictures``."""
    if request.path.parent.name == "pretrain" and "pictures" not in request.fixturenames:
        monkeypatch.setattr("sgcl_cli.stages.pretrain.pictures._drawn", lambda draw: [])


@pytest.fixture
def training(make_patches: Callable[..., Path], tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        patches=str(make_patches()), out=str(tmp_path / "run"), epochs=1, batch=8, negatives=16, threads=1, device="cpu"
    )


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Two values of C and no figures, which take most of the time of an evaluation; one test draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "C_PATH", (0.01, 1.0))
        patch.setattr(evaluation, "pictures", lambda drawn: {})
        patch.setattr(report, "_map", lambda finished: {})
        yield
