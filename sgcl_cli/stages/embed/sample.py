"""A sample of the features of a cohort, drawn while its files pass one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Sample:
    """Uniform and without replacement, over the rows of all files: each row has a random key, and the smallest keys stay.

    :param size: rows at most; room for them is taken once.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._keys = np.full(size, np.inf)
        self._kept: NDArray[Any] | None = None

    def add(self, features: NDArray[Any]) -> None:
        """Let the rows (N, D) of one more file take part."""
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
