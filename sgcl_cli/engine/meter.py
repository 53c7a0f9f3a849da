"""Numbers of steps, which stay on the device and are copied to the host for several steps at once: no step waits for the GPU.

Wall time is measured between copies. Training is never more than one step ahead of the device, so over several steps it is the
time of the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.engine.runtime import to_host


class Meter:
    """Collects steps.

    :param every: steps that are copied together.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._known: list[dict[str, Any]] = []
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []
        self._sent: list[tuple[list[dict[str, Any]], float, Callable[[], Tensor]]] = []
        self.restart()

    def restart(self) -> None:
        """Start measuring time now."""
        self._since = time.perf_counter()

    def add(self, known: dict[str, Any], measured: Mapping[str, Tensor]) -> None:
        """Add one step.

        :param known: numbers known to the host, as JSON values.
        :param measured: scalars on the device, with the same names at every step.
        """
        names = tuple(measured)
        assert not self._names or names == self._names, "every step measures the same"
        self._names = names
        self._known.append(known)
        self._rows.append(torch.stack([value.detach().float() for value in measured.values()]))

    @property
    def due(self) -> bool:
        """Whether enough steps were collected to be copied."""
        return len(self._rows) >= self._every

    def read(self, *, wait: bool = True) -> list[tuple[dict[str, Any], dict[str, float | None]]]:
        """The known and the measured numbers of steps, each step once, with the mean "seconds" of a step among the measured.
        None stands for a number that is not finite.

        :param wait: whether to wait for steps whose copy starts now; if not, the next call returns them.
        """
        if self._rows:
            seconds = (time.perf_counter() - self._since) / len(self._rows)
            self._sent.append((self._known, seconds, to_host(torch.stack(self._rows))))
            self._known, self._rows = [], []
            self.restart()
        arrived = self._sent if wait else self._sent[:-1]
        self._sent = [] if wait else self._sent[-1:]
        return [step for sent in arrived for step in self._steps(*sent)]

    def _steps(
        self, known: list[dict[str, Any]], seconds: float, get: Callable[[], Tensor]
    ) -> Iterator[tuple[dict[str, Any], dict[str, float | None]]]:
        for before, row in zip(known, get().tolist(), strict=True):
            measured = dict(zip(self._names, (value if math.isfinite(value) else None for value in row), strict=True))
            yield before, {**measured, "seconds": seconds}
