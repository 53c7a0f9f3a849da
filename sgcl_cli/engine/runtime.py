"""Device, precision and threads of the computation."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.engine.processes import cores
from sgcl_cli.errors import ConfigError, TrainingError


@dataclass
class Waited:
    """Time that this process has waited for copies from a device.

    :ivar seconds: in all.
    """

    seconds: float = 0.0


WAITED = Waited()


@dataclass(frozen=True)
class Spent:
    """Time of a piece of work.

    :ivar host: seconds until the host has queued all of it.
    :ivar device: seconds until the device has completed it.
    """

    host: float
    device: float


@dataclass(frozen=True)
class Runtime:
    """Device and precision.

    :ivar device: with its index if it is a GPU.
    :ivar lower: dtype of autocast; None for float32 throughout.
    """

    device: torch.device
    lower: torch.dtype | None

    def __post_init__(self) -> None:
        assert self.device.type != "cuda" or self.device.index is not None, (
            "parts of torch refuse a GPU without a number"
        )

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which encoders run; outside of it everything is float32."""
        if self.lower is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.lower)

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def describe(self) -> str:
        """The device in words."""
        name = torch.cuda.get_device_name(self.device) if self.on_cuda else f"{torch.get_num_threads()} threads"
        return f"{self.device} ({name}), {'float32' if self.lower is None else 'bfloat16 autocast'}"

    def seconds_of(self, work: Callable[[], object], repeats: int = 1) -> float:
        """The median wall time of a piece of work, until the device has completed it."""
        taken = []
        for _ in range(repeats):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def spent(self, work: Callable[[], object], repeats: int = 1) -> Spent:
        """The median times of a piece of work, each started while the device is idle.

        On a GPU the device's time is that between two events before and after the work; on a CPU both are wall time.
        """
        if not self.on_cuda:
            seconds = self.seconds_of(work, repeats)
            return Spent(seconds, seconds)
        taken = []
        for _ in range(repeats):
            before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self.wait()
            stream = torch.cuda.current_stream(self.device)
            before.record(stream)
            started = time.perf_counter()
            work()
            host = time.perf_counter() - started
            behind.record(stream)
            self.wait()
            taken.append(Spent(host, before.elapsed_time(behind) / 1_000))
        return Spent(*(statistics.median(getattr(one, name) for one in taken) for name in ("host", "device")))

    def wait(self) -> None:
        """Wait until the device has completed all queued work."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def most_memory(self) -> tuple[int, int] | None:
        """Peak memory of tensors on the GPU so far and its total memory, bytes; None on the CPU."""
        if not self.on_cuda:
            return None
        return torch.cuda.max_memory_allocated(self.device), torch.cuda.get_device_properties(self.device).total_memory


def start(device: str, precision: str, threads: int | None, local_rank: int | None = None) -> Runtime:
    """Resolve device, precision and threads.

    :param device: auto, cpu, cuda or cuda:N; auto takes CUDA where there is one. cuda without a number is torch's current one.
    :param local_rank: number of this process among those of this machine, each with its own GPU; None for a single process.
    :raises ConfigError: no such kind of device. :raises TrainingError: CUDA was requested and is not available.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"--device {device} is not a device", "use auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device} is not supported", "use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and local_rank is not None:
        if chosen.index is not None:
            raise ConfigError(
                f"--device {device} would give every process the same GPU",
                "use --device cuda: each takes one of its own",
            )
        chosen = torch.device("cuda", local_rank)
    if chosen.type == "cuda":
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise TrainingError(
                f"--device {chosen}: this machine has {torch.cuda.device_count()} CUDA devices",
                "use --device cpu or auto" if local_rank is None else "start one process for each GPU",
            )
        if chosen.index is None:
            chosen = torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(chosen)
    lowered = precision == "bf16" or (precision == "auto" and chosen.type == "cuda")
    return Runtime(chosen, torch.bfloat16 if lowered else None)


def to_device(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Arrays of one dtype as tensors on the device: one asynchronous copy from page-locked memory."""
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type != "cpu":
        flat = flat.pin_memory().to(device, non_blocking=True)
    parts = torch.split(flat, [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start an asynchronous copy to the host; the returned function gives the copy and waits only if it has not arrived."""
    if tensor.device.type != "cuda":
        return lambda: tensor
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(tensor.device))

    def get() -> Tensor:
        began = time.perf_counter()
        arrived.synchronize()
        WAITED.seconds += time.perf_counter() - began
        return there

    return get


def free_bytes(runtime: Runtime) -> int | None:
    """Free memory of the device, bytes; None if the system does not report it."""
    if runtime.on_cuda:
        return int(torch.cuda.mem_get_info(runtime.device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def loading_workers(asked: int | None, runtime: Runtime, sharers: int = 1) -> int:
    """Number of decoding processes: as configured, else enough for a GPU, and none if the CPU does the computation.

    :param sharers: processes of this machine that share its cores.
    """
    if asked is not None:
        return asked
    return max(1, min(cores() // sharers, 12)) if runtime.on_cuda else 0


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which torch's CPU generator has a seed; its state is restored at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
