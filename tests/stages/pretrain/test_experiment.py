from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.ranks import Ranks
from sgcl_cli.errors import ConfigError, TrainingError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.pretrain.experiment import Experiment, first_state

Make = Callable[..., Experiment]


def test_steps_and_epochs_are_counted_in_whole_batches(tiny_config: PretrainConfig, make_experiment: Make) -> None:
    experiment = make_experiment(tiny_config)
    assert (len(experiment.index), experiment.steps_per_epoch, experiment.total_steps) == (31, 3, 6)
    assert experiment.epochs_at(Position(1, 2, 5)) == pytest.approx(5 / 3)


def test_the_order_of_an_epoch_has_no_patch_twice_and_goes_on_anywhere(
    tiny_config: PretrainConfig, make_experiment: Make
) -> None:
    experiment = make_experiment(tiny_config)
    order = np.stack(experiment.order(0))
    assert order.shape == (3, 8) and len(np.unique(order)) == 24
    assert np.array_equal(experiment.order(0, 2), order[2:])
    assert not np.array_equal(experiment.order(1), order)
    assert not np.array_equal(make_experiment(replace(tiny_config, seed=1)).order(0), order)


def test_the_covering_order_has_every_patch(tiny_config: PretrainConfig, make_experiment: Make) -> None:
    batches = make_experiment(tiny_config).covering_order()
    assert {len(batch) for batch in batches} == {8}
    assert np.unique(np.concatenate(batches)).tolist() == list(range(31))


def test_ranks_share_each_batch(tiny_config: PretrainConfig, make_experiment: Make) -> None:
    whole = make_experiment(tiny_config).order(0)
    parts = [make_experiment(tiny_config, Ranks(rank, 2)).order(0) for rank in (0, 1)]
    joined = [np.concatenate(pair).tolist() for pair in zip(*parts, strict=True)]
    assert joined == [batch.tolist() for batch in whole]


def test_a_batch_that_ranks_cannot_share_is_refused(tiny_config: PretrainConfig, make_experiment: Make) -> None:
    with pytest.raises(ConfigError, match="--batch 8 .* cannot be shared equally by 3") as caught:
        make_experiment(tiny_config, Ranks(0, 3))
    assert caught.value.hint == "use --batch 6"


def test_only_the_first_rank_writes_and_a_dry_run_does_not(tiny_config: PretrainConfig, make_experiment: Make) -> None:
    dry = replace(tiny_config, dry_run=True)
    made = make_experiment(tiny_config), make_experiment(tiny_config, Ranks(1, 2)), make_experiment(dry)
    assert [experiment.writes for experiment in made] == [True, False, False]


def test_views_are_the_same_each_time_and_others_in_another_epoch(
    tiny_config: PretrainConfig, make_experiment: Make
) -> None:
    experiment = make_experiment(tiny_config)
    patches = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again, later = (experiment.draw(epoch, patches, np.arange(4)).whole for epoch in (0, 0, 1))
    assert first.shape == (4, 3, 28, 28)
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_the_first_state_follows_from_the_seed(tiny_config: PretrainConfig, make_experiment: Make) -> None:
    def weights(config: PretrainConfig) -> torch.Tensor:
        return first_state(make_experiment(config), Silent()).networks.encoder.conv1.weight  # type: ignore[union-attr, return-value]

    assert torch.equal(weights(tiny_config), weights(tiny_config))
    assert not torch.equal(weights(tiny_config), weights(replace(tiny_config, seed=1)))


def test_banks_beyond_the_free_memory_are_refused(
    tiny_config: PretrainConfig, make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "free_bytes", lambda runtime: 100)
    with pytest.raises(TrainingError, match="banks and lists for 31 patches need .* cpu has 0.0 GiB free") as caught:
        first_state(make_experiment(tiny_config), Silent())
    assert "--bank-dtype bfloat16" in str(caught.value.hint)
