"""Numbers of steps that stay on the device until several steps are read together: no step waits for the GPU.

Wall time is counted between readings; a reading waits for the device, so the rate between two of them is what the device did.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Collects steps.

    :param every: steps between two readings.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._known: list[dict[str, Any]] = []
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []
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
        """Whether enough steps were taken for a reading."""
        return len(self._rows) >= self._every

    def read(self) -> list[tuple[dict[str, Any], dict[str, float | None]]]:
        """The steps since the last reading, as what was known and what was measured (null where it is not finite), with the
        mean "seconds" of one among the latter. One transfer from the device."""
        if not self._rows:
            return []
        table = torch.stack(self._rows).tolist()
        seconds = (time.perf_counter() - self._since) / len(table)
        steps = []
        for known, row in zip(self._known, table, strict=True):
            measured = dict(zip(self._names, (value if math.isfinite(value) else None for value in row), strict=True))
            steps.append((known, {**measured, "seconds": seconds}))
        self._known, self._rows = [], []
        self.restart()
        return steps
