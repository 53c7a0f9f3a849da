"""A random sample of the features of a cohort, drawn in one pass over its files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Sample:
    """A uniform sample of the rows of all files without replacement: each row gets a random key, and the smallest keys are kept.

    :param size: rows at most; memory for them is allocated once.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._keys = np.full(size, np.inf)
        self._kept: NDArray[Any] | None = None

    def add(self, features: NDArray[Any]) -> None:
        """Add the rows (N, D) of a file to the population."""
        if self._kept is None:
            self._kept = np.empty((len(self._keys), features.shape[1]), features.dtype)
        keys = self._random.random(len(features))
        entering = np.argsort(keys)[: len(self._keys)]
        leaving = np.argsort(-self._keys, kind="stable")[: len(entering)]
        smaller = keys[entering] < self._keys[leaving]
        self._keys[leaving[smaller]] = keys[entering[smaller]]
        self._kept[leaving[smaller]] = features[entering[smaller]]

    @property
    def rows(self) -> NDArray[Any]:
        """The sample so far, (n, D), in no particular order."""
        assert self._kept is not None
        return self._kept[: np.isfinite(self._keys).sum()]
