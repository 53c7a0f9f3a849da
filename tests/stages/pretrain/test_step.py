from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.feed import Fed
from sgcl_cli.engine.fit import Position
from sgcl_cli.stages.pretrain.step import encoder_step, objective_step
from sgcl_cli.stages.pretrain.training import Pretraining

Make = Callable[[PretrainConfig], Pretraining]


def fed_by(training: Pretraining) -> Fed:
    return next(iter(training.batches(0, 0)))


def weights_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def alike(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_step_finds_losses_with_gradient_and_embeddings_without(
    tiny_config: PretrainConfig, make_training: Make
) -> None:
    training = make_training(tiny_config)
    found = training.step(fed_by(training), Position())
    found.total.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in training.state.networks.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert found.new.v.shape == (8, tiny_config.projection) and not found.new.v.requires_grad
    assert found.new.v.norm(dim=1).tolist() == pytest.approx([1.0] * 8, abs=1e-5)
    assert found.host_seconds > 0


def test_commit_writes_the_batch_into_the_banks_and_nothing_else(
    tiny_config: PretrainConfig, make_training: Make
) -> None:
    training = make_training(tiny_config)
    fed = fed_by(training)
    bank = training.state.objective.state_dict()["bank_v"].clone()
    training.step.commit(training.step(fed, Position()))
    changed = (training.state.objective.state_dict()["bank_v"] != bank).any(dim=1).nonzero().flatten()
    assert changed.tolist() == sorted(fed.index.tolist())


def test_remember_puts_what_the_networks_make_into_the_banks(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(tiny_config)
    fed = fed_by(training)
    training.state.networks.train()
    training.step.remember(fed)
    with torch.no_grad():
        expected, _ = training.step.embed(fed.views)
    stored = training.state.objective.state_dict()["bank_v"][fed.index]
    assert torch.allclose(stored.float(), expected.v, atol=1e-5)


def test_the_key_networks_follow_after_a_commit(tiny_config: PretrainConfig, make_training: Make) -> None:
    training = make_training(replace(tiny_config, base="moco"))
    keys = training.state.keys
    assert keys is not None
    found = training.step(fed_by(training), Position())
    before, momentum = weights_of(keys), training.experiment.wanted_views.key_momentum
    with torch.no_grad():
        for parameter in training.state.networks.parameters():
            parameter.add_(1.0)
    training.step.commit(found)
    assert momentum is not None
    moved = [float((after - old).mean()) for after, old in zip(weights_of(keys), before, strict=True)]
    assert moved == pytest.approx([1 - momentum] * len(moved), rel=1e-2)


def test_timing_the_encoder_and_the_objective_changes_no_weight(
    tiny_config: PretrainConfig, make_training: Make
) -> None:
    training = make_training(tiny_config)
    before = weights_of(training.state.networks)
    found = training.step(fed_by(training), Position())
    encoder_step(training.step, found)
    assert training.state.optimiser.param_groups[0]["lr"] == 0.0
    assert all(parameter.grad is not None for parameter in training.state.networks.parameters())
    objective_step(training.step, found)
    assert alike(before, weights_of(training.state.networks))
