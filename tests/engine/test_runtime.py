"""What torch is asked for where there is a GPU. A stand-in answers at the lowest level, so that torch's own checks run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import ViewOptions
from sgcl_cli.engine import ranks as ranking
from sgcl_cli.engine.feed import Fed, Feed
from sgcl_cli.engine.loader import Loader, StoredPatches, epoch_order
from sgcl_cli.engine.ranks import Ranks, distributed, joined, synchronised
from sgcl_cli.engine.runtime import Runtime, free_bytes, loading_workers, seeded, start
from sgcl_cli.engine.views import Views, ViewSettings, make_views
from sgcl_cli.errors import ConfigError, TrainingError

Make = Callable[..., Path]


class Gpus:
    """A machine with GPUs, as torch sees it: which one is current, and what was asked of which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.current = 0
        self.asked: list[tuple[str, Any]] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(
            torch._C, "_cuda_setDevice", self._set, raising=False
        )  # below torch.cuda.set_device's checks
        answers = {
            "get_device_name": "a GPU",
            "get_device_properties": SimpleNamespace(total_memory=80),
            "max_memory_allocated": 7,
            "mem_get_info": (33, 80),
            "synchronize": None,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, self._answering(name, answer))

    def _set(self, index: int) -> None:
        self.current = index

    def _answering(self, name: str, answer: Any) -> Callable[[torch.device], Any]:
        def ask(device: torch.device) -> Any:
            self.asked.append((name, device))
            return answer

        return ask


@pytest.mark.parametrize(
    ("device", "local_rank", "current", "index"),
    [
        ("cuda", None, 0, 0),
        ("auto", None, 0, 0),
        ("cuda", None, 1, 1),
        ("cuda:1", None, 0, 1),
        ("cuda", 1, 0, 1),
        ("auto", 1, 0, 1),
        ("cuda", 0, 1, 0),
    ],
)
def test_a_gpu_has_a_number_and_is_torchs_current_one(
    monkeypatch: pytest.MonkeyPatch, device: str, local_rank: int | None, current: int, index: int
) -> None:
    gpus = Gpus(monkeypatch, 2)
    gpus.current = current
    runtime = start(device, "auto", None, local_rank)
    assert runtime.device == torch.device("cuda", index) and runtime.device.index == index
    assert gpus.current == index and runtime.lower is torch.bfloat16
    assert start("cuda", "fp32", None, local_rank) == Runtime(torch.device("cuda", index), None), "asked for once more"


def test_a_runtime_on_a_gpu_without_a_number_cannot_be_made() -> None:
    with pytest.raises(AssertionError, match="a number"):
        Runtime(torch.device("cuda"), None)


@pytest.mark.parametrize(
    ("device", "local_rank", "count", "error", "message"),
    [
        ("cuda", None, 0, TrainingError, "--device cuda: this machine has 0 CUDA devices"),
        ("cuda:2", None, 2, TrainingError, "--device cuda:2: this machine has 2 CUDA devices"),
        ("auto", 2, 2, TrainingError, "this machine has 2 CUDA devices .start one process for each GPU"),
        ("cuda:1", 0, 2, ConfigError, "would give every process the same GPU"),
        ("cuda:-1", None, 2, ConfigError, "--device cuda:-1 is not a device"),
        ("cuda:x", None, 2, ConfigError, "--device cuda:x is not a device"),
    ],
)
def test_gpus_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, device: str, local_rank: int | None, count: int, error: type, message: str
) -> None:
    Gpus(monkeypatch, count)
    with pytest.raises(error, match=message):
        start(device, "auto", None, local_rank)


def test_what_a_runtime_asks_is_asked_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus, second = Gpus(monkeypatch, 2), torch.device("cuda", 1)
    runtime = start("cuda:1", "auto", None)
    assert runtime.describe() == "cuda:1 (a GPU), bfloat16 autocast"
    assert runtime.most_memory() == (7, 80) and free_bytes(runtime) == 33
    assert runtime.seconds_of(lambda: gpus.asked.append(("work", second))) >= 0
    names = ["get_device_name", "max_memory_allocated", "get_device_properties", "mem_get_info"]
    assert gpus.asked == [(name, second) for name in [*names, "synchronize", "work", "synchronize"]]
    assert loading_workers(None, runtime) >= 1 and loading_workers(None, start("cpu", "auto", None)) == 0


def test_devices() -> None:
    assert start("cpu", "auto", None).lower is None
    assert start("cpu", "bf16", None).lower is torch.bfloat16
    with pytest.raises(ConfigError, match="--device tpu"):
        start("tpu", "auto", None)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="--device cuda: this machine has 0 CUDA devices"):
            start("cuda", "auto", None)
        assert start("auto", "auto", None).device == torch.device("cpu")


def test_a_seed_is_for_a_while() -> None:
    state = torch.random.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)


@pytest.mark.parametrize(
    ("device", "gpus", "backend"),
    [
        ("cuda", 2, "cpu:gloo,cuda:nccl"),
        ("auto", 2, "cpu:gloo,cuda:nccl"),
        ("cpu", 2, "gloo"),
        ("auto", 0, "gloo"),
    ],
)
def test_ranks_on_gpus_talk_by_nccl_and_of_plain_objects_by_gloo(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, backend: str
) -> None:
    Gpus(monkeypatch, gpus)
    begun: list[str] = []
    given = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranking.dist, "init_process_group", lambda backend, timeout: begun.append(backend))
    monkeypatch.setattr(ranking.dist, "destroy_process_group", lambda: begun.append("parted"))
    monkeypatch.setattr(ranking.dist, "is_initialized", lambda: bool(begun))
    monkeypatch.setattr(ranking.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(ranking.dist, "get_world_size", lambda: 2)
    with joined(device) as ranks:
        runtime = start(device, "auto", None, ranks.own_device)
    assert begun == [backend, "parted"]
    assert runtime.device == (torch.device("cuda", 1) if "nccl" in backend else torch.device("cpu"))


def test_gradients_of_ranks_are_averaged_on_the_gpu_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(monkeypatch, 2)
    given: dict[str, Any] = {}
    monkeypatch.setattr(ranking, "DistributedDataParallel", lambda networks, **settings: given.update(settings))
    ranks = Ranks(1, 2, 1, 2)
    distributed(nn.Linear(1, 1), ranks, start("cuda", "auto", None, ranks.own_device))
    assert given["device_ids"] == [torch.device("cuda", 1)]
    distributed(nn.Linear(1, 1), ranks, start("cpu", "auto", None))
    assert given["device_ids"] is None


def test_batch_norm_over_ranks_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(monkeypatch, 2)
    networks = nn.Sequential(nn.BatchNorm2d(2))
    with pytest.raises(ConfigError, match="CUDA only"):
        synchronised(networks, Ranks(0, 2), start("cpu", "auto", None))
    synchronised(networks, Ranks(0, 1), start("cuda", "auto", None))
    assert isinstance(networks[0], nn.BatchNorm2d), "alone there is nobody to ask"


class OnCuda(Runtime):
    """The CPU, taken for a GPU by who asks."""

    on_cuda = True  # type: ignore[assignment]


def test_views_are_made_on_a_stream_of_the_gpu_and_decoders_wait_for_the_copy(
    monkeypatch: pytest.MonkeyPatch, make_patches: Make
) -> None:
    """A stream that does its work when it is waited for: the copy of a batch may come as late as that."""
    asked: list[tuple[str, Any]] = []

    class Event:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            asked.append(("copied", self.number))

    class Stream:
        def __init__(self, device: torch.device) -> None:
            asked.append(("stream", device))
            self.events = 0

        def record_event(self) -> Event:
            self.events += 1
            return Event(self.events)

        def wait_event(self, event: Event) -> None:
            pass

    def entered(stream: Stream) -> AbstractContextManager[None]:
        return nullcontext()

    runtime = OnCuda(torch.device("cpu"), None)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(device))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    index = PatchIndex.open(make_patches())

    def draw(patches: torch.Tensor, rows: Any) -> Views:
        return make_views(patches, rows, settings=ViewSettings.of(ViewOptions(view=28, corner=12), 32), seed=3, epoch=1)

    with Loader(StoredPatches(index), batch=8, workers=1, pin=False) as loader:
        feed = Feed(loader, runtime)
        order = [part for epoch in range(4) for part in epoch_order(len(index), 8, 0, epoch)]
        for fed in feed.batches(order, draw):
            assert isinstance(fed, Fed)
            feed.look_ahead()
    assert asked[0] == ("stream", torch.device("cpu"))
    copied = [number for what, number in asked if what == "copied"]
    slots = len(loader._slots.pixels)
    assert len(copied) == len(order) - slots, "every slot that was used again was waited for"
    assert copied == sorted(copied)
