from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sgcl_cli.config import PretrainConfig
from sgcl_cli.stages.pretrain.dry_run import Cost, measure, try_out
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]
COST = Cost(first=9.0, step=4.0, data=1.0, views=0.5, encoder=2.0, objective=0.75, host=3.0)


def test_the_device_takes_the_sum_of_its_pieces() -> None:
    assert COST.device == 3.25
    assert COST.pieces == {"data": 1.0, "views": 0.5, "encoder": 2.0, "objective": 0.75, "host": 3.0}


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, "encoder"),
        ({"objective": 2.5}, "objective"),
        ({"views": 2.25}, "views"),
        ({"data": 3.5}, "data"),
        ({"host": 3.5}, "host"),
        ({"host": 3.5, "data": 3.75}, "data"),
    ],
)
def test_a_step_is_bound_by_the_longest_of_data_host_and_device(changes: dict[str, float], bound: str) -> None:
    assert replace(COST, **changes).bound == bound


def test_every_piece_of_a_step_is_measured(tiny_config: PretrainConfig, make_training: Make) -> None:
    cost = measure(make_training(replace(tiny_config, dry_run=True)))
    assert min(cost.first, cost.step, *cost.pieces.values()) > 0


def test_the_expected_time_is_that_of_all_steps_and_clusters(tiny_config: PretrainConfig, make_training: Make) -> None:
    config = replace(tiny_config, dry_run=True, epochs=5)
    outcome = try_out(make_training(config))
    data = outcome.data
    assert (data["patches"], data["slides"], data["steps"]) == (31, 2, 15)
    seconds = data["seconds_per_step"] * 15 + data["seconds_of"]["clusters"] * 4
    assert data["seconds_of"]["clusters"] > 0 and data["expected_hours"] == pytest.approx(seconds / 3600)
    assert data["images_per_second"] == pytest.approx(8 / data["seconds_per_step"])
    assert dict(outcome.headline)["bound by"] == data["bound"]
    assert not Path(config.out).exists()
