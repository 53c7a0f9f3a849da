"""Where and how arithmetic is done: device, precision, threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sgcl_cli.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class Runtime:
    """The device, and the dtype of autocast (None: none, float32 throughout)."""

    device: torch.device
    lower: torch.dtype | None

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


def start(device: str, precision: str, threads: int | None) -> Runtime:
    """Settle device, precision and threads.

    :param device: auto, cpu, cuda or cuda:N; auto takes CUDA where there is one.
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
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices", "use --device cpu or auto"
        )
    lowered = precision == "bf16" or (precision == "auto" and chosen.type == "cuda")
    return Runtime(chosen, torch.bfloat16 if lowered else None)


def free_bytes(runtime: Runtime) -> int | None:
    """Memory that the device can still give, bytes; None where the system does not say."""
    if runtime.on_cuda:
        return int(torch.cuda.mem_get_info(runtime.device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loading_workers(asked: int | None, runtime: Runtime) -> int:
    """Decoding processes: as asked, else enough for a GPU and none beside a CPU that computes anyway."""
    if asked is not None:
        return asked
    return min(cores(), 12) if runtime.on_cuda else 0


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's CPU generator at a seed, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
