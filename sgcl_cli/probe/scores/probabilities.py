"""Out-of-fold class probabilities, the base of all scores of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.scores.reported import too_few


@dataclass(frozen=True)
class Probabilities:
    """Out-of-fold probabilities (n, K) with truth, fold and patient (n,).

    A resample may lack a class that few patients have, and the metric is then undefined; the jackknife never lacks one, and
    intervals from the jackknife alone have the nominal coverage (benchmarks/coverage.py, patches of several tissues).
    """

    most_undefined: ClassVar[float] = 1.0

    truth: NDArray[np.int64]
    probability: NDArray[np.float64]
    fold: NDArray[np.str_]
    patient: NDArray[np.str_]
    classes: Sequence[str] = field(default_factory=tuple)

    def why_no_interval(self, metric: str) -> str:
        """The class that has too few patients, "" if none."""
        return too_few(dict(enumerate(self.classes)), self.truth, self.fold, self.patient)

    def witnesses(self, metric: str) -> int:
        """0: these scores are not shares of correct predictions."""
        return 0

    def unseen(self, metric: str) -> Sequence[tuple[float, float]]:
        """No such component."""
        return ()
