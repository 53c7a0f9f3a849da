from __future__ import annotations

import pytest
import torch
from torch import nn

from sgcl_cli.errors import ArtefactError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.weights import fit_weights, weights_sha256


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.bn1 = nn.BatchNorm2d(2)


@pytest.fixture
def network() -> _Small:
    return _Small()


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand_like(value.float()).to(value.dtype) for name, value in _Small().state_dict().items()}


def _fit(network: nn.Module, state: dict) -> str:
    return fit_weights(network, {"": state}, arch="small", where="a.pth").describe()


@pytest.mark.parametrize(
    "prefix", ["", "module.", "encoder.", "backbone.", "model.", "module.encoder_q.", "_orig_mod."]
)
def test_prefixes_of_wrappers_are_taken_off(network: _Small, state: dict, prefix: str) -> None:
    assert _fit(network, {prefix + name: value for name, value in state.items()}) == "7 of 7 tensors matched"
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])


def test_heads_and_unused_keys_are_told_apart(network: _Small, state: dict) -> None:
    extra = {"fc.weight": torch.zeros(1), "module.head.bias": torch.zeros(1), "decoder.w": torch.zeros(1)}
    said = _fit(network, {**state, **extra})
    assert said == "7 of 7 tensors matched; heads left aside: 'fc.weight', 'module.head.bias'; 1 unused: 'decoder.w'"


def test_the_container_that_fits_best_is_taken_and_named(network: _Small, state: dict) -> None:
    groups = {"": {"x": torch.zeros(1)}, "teacher": {f"backbone.{k}": v for k, v in state.items()}}
    assert fit_weights(network, groups, arch="small", where="a").describe() == "7 of 7 tensors matched from 'teacher'"


def test_half_precision_becomes_the_networks_own(network: _Small, state: dict) -> None:
    _fit(network, {name: value.half() if value.is_floating_point() else value for name, value in state.items()})
    assert network.conv1.weight.dtype == torch.float32
    assert torch.equal(network.conv1.weight, state["conv1.weight"].half().float())


def test_counters_of_batch_norm_may_be_absent_nothing_else(network: _Small, state: dict) -> None:
    del state["bn1.num_batches_tracked"]
    assert _fit(network, state) == "6 of 7 tensors matched"
    del state["bn1.running_var"]
    before = network.conv1.weight.clone()
    message = (
        r"the weights do not fit small: a.pth lacks 1 of its 6 tensors, 'bn1.running_var'; it holds 'conv1.weight'"
    )
    with pytest.raises(ArtefactError, match=message):
        _fit(network, state)
    assert torch.equal(network.conv1.weight, before), "a refused file changes nothing"


def test_what_is_not_used_may_be_absent_where_it_is_named(network: _Small, state: dict) -> None:
    rest = {name: value for name, value in state.items() if not name.startswith("bn1.")}
    fit = fit_weights(network, {"": rest}, arch="small", where="a", optional=("bn1.",))
    assert (fit.matched, fit.total) == (2, 7)


def test_other_shapes_are_named(network: _Small, state: dict) -> None:
    state["conv1.bias"] = torch.zeros(3)
    with pytest.raises(
        ArtefactError, match=r"1 tensors of a.pth have other shapes, 'conv1.bias' is \(3,\), not \(2,\)"
    ):
        _fit(network, state)


def test_two_candidates_for_one_tensor(network: _Small, state: dict) -> None:
    with pytest.raises(ArtefactError, match=r"holds 'conv1.bias' twice, as 'conv1.bias' and 'module.conv1.bias'"):
        _fit(network, {**state, "module.conv1.bias": torch.zeros(2)})


def test_no_tensors_at_all(network: _Small) -> None:
    with pytest.raises(ArtefactError, match="a holds no tensors"):
        fit_weights(network, {}, arch="small", where="a")


def test_another_architecture_is_refused_by_name() -> None:
    small = ENCODERS["resnet18"]().state_dict()
    with pytest.raises(
        ArtefactError, match="do not fit resnet34: a lacks 80 of its 180 tensors, 'layer1.2.conv1.weight'"
    ):
        fit_weights(ENCODERS["resnet34"](), {"": small}, arch="resnet34", where="a")


def test_the_hash_sees_names_types_shapes_and_values() -> None:
    state = {"a": torch.arange(6.0), "n": torch.tensor(3)}
    same = {"n": torch.tensor(3), "a": torch.arange(6.0)}
    others = (
        {"b": state["a"], "n": state["n"]},
        {**state, "a": state["a"].view(2, 3)},
        {**state, "n": torch.tensor(4)},
        {**state, "n": state["n"].int()},
    )
    assert weights_sha256(state) == weights_sha256(same)
    assert len({weights_sha256(state), *(weights_sha256(other) for other in others)}) == 5
    assert weights_sha256({"a": torch.ones(2, dtype=torch.bfloat16)}) != weights_sha256({"a": torch.ones(2)})
