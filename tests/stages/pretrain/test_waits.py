"""A training step waits for no device and takes few operations: shown on the CPU.

Tensors of torch's "meta" device stand for those of a GPU: they have a shape and no content, so what depends on content raises,
and copies from and to them are seen.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.counting import LOOKS
from sgcl_cli.config import ObjectiveOptions, ViewOptions
from sgcl_cli.engine.networks import KeyNetworks, Networks
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import ViewSettings, make_views
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.resnet import Projector

GPU = torch.device("meta")
CPU = Runtime(torch.device("cpu"), None)
Net = TypeVar("Net", bound=Networks)
CASES = {
    "npid": ({}, 20_000),
    "npid, the pool is the bank": ({}, 900),
    "moco": ({"base": "moco"}, 20_000),
    "plain npid": ({"weight_spatial": 0.0, "weight_inner": 0.0}, 900),
    "released": ({"as_released": True}, 20_000),
    "wide": ({"radius": 9.0, "auxiliary": 3, "agreement": "any"}, 20_000),
    "narrow banks": ({"bank_dtype": "bfloat16", "negative_law": "hardest"}, 20_000),
}


class Watcher(TorchDispatchMode):
    """Counts operations, and copies between the devices by their direction."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.operations.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name().removeprefix("aten::").partition(".")[0]
        if name not in LOOKS:
            self.operations[name] += 1
        if name in ("_to_copy", "copy_"):
            target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else args[0].device
            source = args[1] if name == "copy_" else args[0]
            if source.device.type != target.type:
                waits = (
                    "" if kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)) else ", waited for"
                )
                self.copies[f"{source.device.type} to {target.type}{waits}"] += 1
        return func(*args, **kwargs)


def on_gpu(thing: Any) -> Any:
    """A copy whose tensors, however deep, are on the GPU that is not there."""
    if isinstance(thing, torch.Tensor):
        return torch.empty(thing.shape, dtype=thing.dtype, device=GPU)
    if isinstance(thing, list):
        return [on_gpu(part) for part in thing]
    if type(thing).__module__.startswith("sgcl_cli.method") and hasattr(thing, "__dict__"):
        moved = copy.copy(thing)
        for name, value in vars(thing).items():
            object.__setattr__(moved, name, on_gpu(value))
        return moved
    return GPU if isinstance(thing, torch.device) else thing


def moved(network: Net) -> Net:
    """The same network with its parameters on the GPU that is not there."""
    network.runtime = Runtime(GPU, None)
    for module in network.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else nn.Parameter(on_gpu(parameter.data))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else on_gpu(buffer)
    return network


def objective_of(changes: dict[str, Any], n: int, batch: int = 32) -> SGCL:
    place = torch.arange(n)
    cell = torch.stack([place % 100, place // 100 % 50], 1).double()
    settings, _ = resolve(ObjectiveOptions(**{"negative_law": "beta", **changes}), n, 10, batch)
    objective = SGCL(settings, place // 5_000, cell, dim=128, hidden_dim=512, seed=0, device="cpu")
    if settings.clustered:
        objective.adopt(
            torch.randint(max(2, n // 300), (n, 1), generator=torch.Generator().manual_seed(0)).expand(-1, 3)
        )
    return objective


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locking needs a driver, autocast a device that it knows; here they change nothing."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


def embedded(batch: int) -> Embedded:
    return Embedded(
        torch.empty(batch, 128, device=GPU, requires_grad=True),
        torch.empty(batch, 512, device=GPU),
        torch.empty(4, batch, 128, device=GPU, requires_grad=True),
    )


@pytest.mark.parametrize("case", CASES)
def test_a_whole_step_depends_on_no_number_of_the_device(case: str) -> None:
    changes, n = CASES[case]
    real, queries = objective_of(changes, n), Networks(ENCODERS["resnet18"](), Projector(512, 128), CPU)
    followers = KeyNetworks(queries) if changes.get("base") == "moco" else None
    with Watcher() as watcher:
        objective, networks = on_gpu(real), moved(queries)
        keys = None if followers is None else moved(followers)
        patches = torch.zeros(32, 64, 64, 3, dtype=torch.uint8, device=GPU)
        optimiser = torch.optim.SGD(networks.parameters(), lr=0.1, momentum=0.9)
        watcher.copies.clear()
        settings = ViewSettings.of(ViewOptions(view=56, corner=24, rotate90=0.5, stain_scale=0.1), 32)
        wanted = objective.wanted_views(objective.settings)
        for step in range(9):  # draws are made for eight steps at a time
            views = make_views(
                patches, np.arange(32), settings=settings, seed=0, epoch=0, corners=wanted.corners, second=wanted.second
            )
            query, key = networks(views.whole, views.corners), None if keys is None else keys.keys_of(views)
            new = (query if key is None else key).detached()
            index = torch.zeros(32, dtype=torch.int64, device=GPU)
            losses = objective.losses(index, query._replace(h=query.h.detach()), key, epoch=0.5, step=step)
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
            assert bool(losses.watched) == objective.settings.spatial
            objective.commit(index, new)
            if keys is not None:
                keys.follow(networks, 0.999)
    assert dict(watcher.copies) == {"cpu to meta": 9}  # the parameters of the views


def test_what_waits_would_be_seen() -> None:
    with Watcher() as watcher:
        found = torch.randn(5, device=GPU)
        for look in (float, torch.Tensor.item, bool, torch.Tensor.cpu, torch.Tensor.tolist):
            with pytest.raises((RuntimeError, NotImplementedError)):
                look(found.sum())
        selections = (torch.nonzero, torch.unique, lambda x: x[x > 0], lambda x: x.repeat_interleave(x.long()))
        for look in selections:
            with pytest.raises((RuntimeError, NotImplementedError)):
                look(found)
        watcher.copies.clear()
        torch.tensor([1.0, 2.0]).to(GPU)
    assert dict(watcher.copies) == {"cpu to meta, waited for": 1}


@pytest.mark.parametrize("case", ["npid", "moco"])
@pytest.mark.parametrize("batch", [32, 256])
@pytest.mark.parametrize("n", [20_000, 40_000])
def test_an_objective_with_backward_is_at_most_150_operations(case: str, batch: int, n: int) -> None:
    objective = on_gpu(objective_of(CASES[case][0], n, batch))
    index, query = torch.empty(batch, dtype=torch.int64, device=GPU), embedded(batch)
    seed = torch.ones((), device=GPU)
    with Watcher() as watcher:
        for step in range(8):
            losses = objective.losses(index, query, query.detached(), epoch=0.5, step=step)
            losses.total.backward(seed)
    assert watcher.count / 8 <= 150
    with Watcher() as watcher:
        objective.commit(index, query)
    assert watcher.count <= 32


@pytest.mark.parametrize("batch", [8, 64])
@pytest.mark.parametrize("second", [False, True])
def test_views_are_at_most_120_operations(batch: int, second: bool) -> None:
    patches = torch.zeros(batch, 64, 64, 3, dtype=torch.uint8)
    settings = ViewSettings.of(ViewOptions(view=56, corner=24), 32)
    with Watcher() as watcher:
        make_views(patches, np.arange(batch), settings=settings, seed=0, epoch=0, second=second)
    assert watcher.count <= 120
