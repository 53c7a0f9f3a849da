from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.config import PretrainConfig
from sgcl_cli.progress import Silent
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


class Recorder(Silent):
    """Counts the units of each bar."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: dict[str, Bar] = {}

    def task(self, name: str, total: int | None, unit: str) -> Bar:
        return self.bars.setdefault(name, Bar(total))


class Bar:
    def __init__(self, total: int | None) -> None:
        self.total, self.done = total, 0

    def advance(self, units: int = 1) -> None:
        self.done += units

    def update(self, *, total: int | None = None, note: str | None = None) -> None:
        pass

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_dry_run_and_the_filling_of_banks_have_bars(config: PretrainConfig) -> None:
    dry, real = Recorder(), Recorder()
    pretrain(replace(config, dry_run=True), dry)
    assert {name: (bar.done, bar.total) for name, bar in dry.bars.items()} == {"dry run": (6, 6)}
    pretrain(replace(config, epochs=1), real)
    assert {name: (bar.done, bar.total) for name, bar in real.bars.items()} == {
        "filling banks": (4, 4),
        "pretrain": (3, 3),
    }
