from __future__ import annotations

import pytest


@pytest.fixture
def pictures() -> None:
    """Ask for it to have a pretraining run draw its pictures."""


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training on a few small patches, so pretraining draws only where a test asks for it."""
    if request.path.name.startswith("test_pretrain") and "pictures" not in request.fixturenames:
        monkeypatch.setattr("sgcl_cli.stages.pretrain_pictures._drawn", lambda draw: [])
