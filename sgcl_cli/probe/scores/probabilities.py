"""Probabilities of rows that a model did not see, as all scores of classes take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.scores.reported import too_few


@dataclass(frozen=True)
class Probabilities:
    """Out-of-fold probabilities (n, K) of rows with their truth, fold and patient (n,).

    A resample may lack a class that few patients hold beside others; leaving out one patient at a time never does, and
    intervals that rest on that alone cover (benchmarks/coverage.py, patches of several tissues).
    """

    most_undefined: ClassVar[float] = 1.0

    truth: NDArray[np.int64]
    probability: NDArray[np.float64]
    fold: NDArray[np.str_]
    patient: NDArray[np.str_]
    classes: Sequence[str] = field(default_factory=tuple)

    def why_no_interval(self, metric: str) -> str:
        """Whether a class has too few patients, "" where not."""
        return too_few(dict(enumerate(self.classes)), self.truth, self.fold, self.patient)

    def witnesses(self, metric: str) -> int:
        """None: these scores are not shares of right answers."""
        return 0

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """Nothing."""
        return ()
