from __future__ import annotations

import pytest
import torch

from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.optimisers import make_optimiser
from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.resnet import Projector
from sgcl_cli.nets.vit import VisionTransformer

HOW = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "fused": False}


def test_adamw_spares_norms_biases_and_positions() -> None:
    network, projector = VisionTransformer(8, 1, 2), Projector(8, 4)
    optimiser = make_optimiser("adamw", (network, projector), **HOW)
    named = {**dict(network.named_parameters()), **{f"g.{n}": p for n, p in projector.named_parameters()}}
    names = {id(parameter): name for name, parameter in named.items()}
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimiser.param_groups)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.5, 0.0]
    linear = {f"blocks.0.{part}.weight" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert decayed == {"patch_embed.proj.weight", "g.hidden.weight", "g.out.weight", *linear}
    assert spared == set(named) - decayed and {"pos_embed", "cls_token", "norm.weight", "g.out.bias"} <= spared


def test_a_step_of_adamw_shrinks_only_what_decays() -> None:
    network = VisionTransformer(8, 1, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = make_optimiser("adamw", (network,), **HOW)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(network.blocks[0].mlp.fc1.weight.detach(), before["blocks.0.mlp.fc1.weight"] * 0.95)
    assert torch.equal(network.pos_embed, before["pos_embed"]) and torch.equal(
        network.norm.weight, before["norm.weight"]
    )


def test_sgd_is_one_group_in_the_networks_order() -> None:
    network, projector = VisionTransformer(8, 1, 2), Projector(8, 4)
    optimiser = make_optimiser("sgd", (network, projector), **HOW)
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.SGD) and (group["momentum"], group["weight_decay"]) == (0.9, 0.5)
    together = [*network.parameters(), *projector.parameters()]
    assert [id(p) for p in group["params"]] == [id(p) for p in together]


def test_a_rate_for_sgd_is_refused_for_adamw() -> None:
    with pytest.raises(ConfigError, match=r"a learning rate of 0.015 is one for SGD; .*5e-4 with --weight-decay 0.05"):
        PretrainConfig(patches="p", out="o", optimiser="adamw")
    assert PretrainConfig(patches="p", out="o", optimiser="adamw", lr=5e-4).lr == 5e-4
