"""Batches of views on the device; on a GPU they are prepared one step ahead of the model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.engine.loader import Batch, Failed, Loader
from sgcl_cli.engine.runtime import Runtime, to_device
from sgcl_cli.engine.views import Views

Draw = Callable[[Tensor, NDArray[np.int64]], Views]


@dataclass(frozen=True)
class Fed:
    """A batch for the model.

    :ivar batch: decoded, on the CPU.
    :ivar index: (B,), on the device.
    :ivar views: on the device.
    :ivar waited: seconds that this process waited for decoding.
    :ivar ready: event after which the views are complete; None on a CPU.
    """

    batch: Batch
    index: Tensor
    views: Views
    waited: float
    ready: torch.cuda.Event | None = None


class Feed:
    """Turns decoded batches into views.

    On CUDA copy and augmentation run on a separate stream: call ``look_ahead`` once the work on a batch is queued, and
    the next batch is prepared in parallel. On a CPU views are drawn on demand. Nothing here waits for the device.
    """

    def __init__(self, loader: Loader, runtime: Runtime) -> None:
        self._loader, self._runtime = loader, runtime
        self._stream = torch.cuda.Stream(runtime.device) if runtime.on_cuda else None  # type: ignore[no-untyped-call]
        self._coming: Iterator[Fed | Failed] = iter(())
        self._next: Fed | Failed | None = None

    def batches(self, order: Sequence[NDArray[np.int64]], draw: Draw) -> Iterator[Fed | Failed]:
        """The batches of an order.

        :param draw: makes the views of uint8 patches on the device, given their global indices; no gradient.
        """
        self._coming, self._next = self._prepared(order, draw), None
        while True:
            fed = self._next or next(self._coming, None)
            self._next = None
            if fed is None:
                return
            if isinstance(fed, Fed):
                self._hand_over(fed)
            yield fed

    def look_ahead(self) -> None:
        """Prepare the next batch now, if it can run in parallel to the model."""
        if self._stream is not None and self._next is None:
            self._next = next(self._coming, None)

    def _prepared(self, order: Sequence[NDArray[np.int64]], draw: Draw) -> Iterator[Fed | Failed]:
        decoded = self._loader.batches(order)
        while True:
            asked = time.perf_counter()
            batch = next(decoded, None)
            waited = time.perf_counter() - asked
            if batch is None:
                return
            yield batch if isinstance(batch, Failed) else self._prepare(batch, draw, waited)

    @torch.no_grad()
    def _prepare(self, batch: Batch, draw: Draw, waited: float) -> Fed:
        device = self._runtime.device
        with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            patches = batch.patches.to(device, non_blocking=True)
            if self._stream is not None:  # decoders must not write to the batch's memory before it is copied
                self._loader.copying(batch, self._stream.record_event().synchronize)
            (index,) = to_device([batch.index], device)
            views = draw(patches, batch.index)
            ready = None if self._stream is None else self._stream.record_event()
        return Fed(batch, index, views, waited, ready)

    def _hand_over(self, fed: Fed) -> None:
        """Make the model's stream wait for the views, and keep their memory until it has used them."""
        if fed.ready is None:
            return
        model = torch.cuda.current_stream(self._runtime.device)
        model.wait_event(fed.ready)
        for tensor in (fed.index, fed.views.whole, fed.views.corners, fed.views.second):
            if tensor is not None:
                tensor.record_stream(model)
