"""Where and how arithmetic is done: device, precision, threads."""

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
    """Seconds that this process has waited for what a device sent it."""

    seconds: float = 0.0


WAITED = Waited()


@dataclass(frozen=True)
class Spent:
    """Seconds of a piece of work: of the host until it has asked for all of it, and of the device until all is done."""

    host: float
    device: float


@dataclass(frozen=True)
class Runtime:
    """The device, with its index where it is a GPU, and the dtype of autocast (None: none, float32 throughout)."""

    device: torch.device
    lower: torch.dtype | None

    def __post_init__(self) -> None:
        assert self.device.type != "cuda" or self.device.index is not None, (
            "some of torch refuses a GPU without a number"
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
        """The median time that a piece of work takes on the device, which is waited for."""
        taken = []
        for _ in range(repeats):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def spent(self, work: Callable[[], object], repeats: int = 1) -> Spent:
        """The median times of a piece of work, each begun when the device had nothing to do.

        On a GPU the device's are those between two events before and behind the work; on a CPU, where host and device are one,
        both are wall time.
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
        """Wait until the device has done what was asked of it."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def most_memory(self) -> tuple[int, int] | None:
        """The most bytes that tensors took on the GPU so far, and all that it has; None on the CPU."""
        if not self.on_cuda:
            return None
        return torch.cuda.max_memory_allocated(self.device), torch.cuda.get_device_properties(self.device).total_memory


def start(device: str, precision: str, threads: int | None, local_rank: int | None = None) -> Runtime:
    """Settle device, precision and threads.

    :param device: auto, cpu, cuda or cuda:N; auto takes CUDA where there is one. cuda without a number is torch's current one.
    :param local_rank: of several processes on this machine, each with a GPU of its own: which; None for a process alone.
    :raises ConfigError: no such kind of device. :raises TrainingError: CUDA was asked for and is not there.
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
    """Arrays of one dtype as tensors on the device: one copy, out of page-locked memory, that nobody waits for."""
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type != "cpu":
        flat = flat.pin_memory().to(device, non_blocking=True)
    parts = torch.split(flat, [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Send a tensor to the host, and go on: what is returned gives it, and waits only if it has not arrived by then."""
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
    """Memory that the device can still give, bytes; None where the system does not say."""
    if runtime.on_cuda:
        return int(torch.cuda.mem_get_info(runtime.device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def loading_workers(asked: int | None, runtime: Runtime, sharers: int = 1) -> int:
    """Decoding processes: as asked, else enough for a GPU and none beside a CPU that computes anyway.

    :param sharers: processes of this machine that divide its cores.
    """
    if asked is not None:
        return asked
    return max(1, min(cores() // sharers, 12)) if runtime.on_cuda else 0


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's CPU generator at a seed, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
