from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.config import PretrainConfig
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain.dry_run import Cost

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [
        ((0.1, 0.1, 0.3, 0.2, 0.5), "encoder"),
        ((0.1, 0.4, 0.3, 0.2, 0.5), "views"),
        ((0.1, 0.1, 0.3, 0.2, 0.7), "host"),
        ((0.9, 0.1, 0.3, 0.2, 0.7), "data"),
    ],
)
def test_what_bounds_a_step(seconds: tuple[float, ...], bound: str) -> None:
    assert Cost(1.0, 1.0, *seconds).bound == bound


def test_dry_run_writes_nothing(config: PretrainConfig) -> None:
    outcome = pretrain(replace(config, dry_run=True))
    data = outcome.data
    assert data["steps"] == 9 and data["seconds_per_step"] > 0
    pieces = data["seconds_of"]
    names = ("views", "encoder", "objective")
    assert set(pieces) == {"data", *names, "host", "clusters"} and min(pieces.values()) > 0
    assert pieces["host"] == pytest.approx(sum(pieces[name] for name in names))
    assert data["bound"] == max(names, key=pieces.__getitem__)
    assert data["images_per_second"] == pytest.approx(8 / data["seconds_per_step"])
    hours = (9 * data["seconds_per_step"] + 2 * pieces["clusters"]) / 3600
    assert data["expected_hours"] == pytest.approx(hours)
    assert data["memory"]["process"] > 2**26
    assert not Path(config.out).exists()


def test_a_dry_run_of_moco(config: PretrainConfig) -> None:
    assert (
        pretrain(replace(config, base="moco", weight_inner=0.0, epochs=1, dry_run=True)).data["images_per_second"] > 0
    )
