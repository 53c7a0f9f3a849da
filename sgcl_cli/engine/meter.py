"""Numbers of steps that stay on the device until those of several steps are sent to the host together: no step waits for the GPU.

Wall time is counted between sendings. Training is never more than a step ahead of the device, so over several steps the rate is
what the device did.
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

    :param every: steps that are sent together.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._known: list[dict[str, Any]] = []
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []
        self._sent: list[tuple[list[dict[str, Any]], float, Callable[[], Tensor]]] = []
        self.restart()

    def restart(self) -> None:
        """Count time from now."""
        self._since = time.perf_counter()

    def add(self, known: dict[str, Any], measured: Mapping[str, Tensor]) -> None:
        """Take one step.

        :param known: what the host knows, as JSON values.
        :param measured: scalars on the device, of the same names at every step.
        """
        names = tuple(measured)
        assert not self._names or names == self._names, "every step measures the same"
        self._names = names
        self._known.append(known)
        self._rows.append(torch.stack([value.detach().float() for value in measured.values()]))

    @property
    def due(self) -> bool:
        """Whether enough steps were taken to be sent."""
        return len(self._rows) >= self._every

    def read(self, *, wait: bool = True) -> list[tuple[dict[str, Any], dict[str, float | None]]]:
        """Steps as what was known and what was measured (null where it is not finite), with the mean "seconds" of one among the
        latter; each step once.

        :param wait: whether to wait for those that are only sent now; without it they come with the next reading.
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
