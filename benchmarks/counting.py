"""Counts of the operations on a device and of the host's waits for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

LOOKS = {
    *("view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias"),
    *("permute", "split", "split_with_sizes", "unbind", "as_strided"),
}
WAITS = {
    *("_local_scalar_dense", "item", "nonzero", "unique", "_unique2", "unique_consecutive", "unique_dim", "equal"),
    "masked_select",
}


class Counts(NamedTuple):
    """Operations that compute or copy (views are not counted), and waits of the host for the device."""

    operations: int
    waits: int


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        self.operations += name not in LOOKS
        masks = name == "index" and any(part is not None and part.dtype == torch.bool for part in args[1])
        self.waits += name in WAITS or masks
        return func(*args, **(kwargs or {}))


def counted(work: Callable[[], object]) -> Counts:
    """Count the operations and waits of ``work``; on CUDA the waits that CUDA reports. Runs it once, on CUDA twice."""
    with _Counter() as counter:
        work()
    if not torch.cuda.is_initialized():
        return Counts(counter.operations, counter.waits)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return Counts(counter.operations, sum("synchronizing CUDA operation" in str(one.message) for one in seen))
