"""Cache of fits under OUT/.cache, one file for each model and fold.

A fit is named by a hash of everything it depends on: the settings of the model, the ids of the features, the rows of the fold,
the labels of its training and validation rows (never those of its test rows), and the versions of the libraries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.artefacts.results import versions
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.stages.evaluate.models import FoldFit, Model

FORMAT = "sgcl.fit/3"
FOLDER = ".cache"
_LIBRARIES = ("sgcl", "torch", "numpy", "scikit-learn")


class Fits:
    """The fits of one result folder; ``taken`` counts those read from the cache, ``asked`` all."""

    def __init__(self, out: Path, cohort: Cohort) -> None:
        self.folder = out / FOLDER
        self.taken = 0
        self._cohort = cohort
        self._features = sorted(file.id for file in cohort.files)
        self._used: set[Path] = set()
        self._versions = {name: version for name, version in versions().items() if name in _LIBRARIES}

    def of(self, model: Model, fold: Fold) -> FoldFit:
        """The cached fit, or a new one, which is added to the cache. Of a model with parts the fits of the parts are cached.

        :raises ArtefactError: the folder cannot be written.
        """
        if model.join is not None:
            return model.join([self.of(part, fold) for part in model.parts])
        path = self.folder / f"{self._name(model, fold)}.npz"
        first = path not in self._used
        self._used.add(path)
        stored = _read(path)
        if stored is not None:
            self.taken += first
            return stored
        fitted = model.fit(fold)
        _write(path, fitted)
        return fitted

    @property
    def asked(self) -> int:
        """Number of fits requested so far."""
        return len(self._used)

    def prune(self) -> None:
        """Remove cached fits that were not requested."""
        for path in self.folder.glob("*.npz"):
            if path not in self._used:
                path.unlink(missing_ok=True)

    def _name(self, model: Model, fold: Fold) -> str:
        cohort = self._cohort
        settings = {
            "model": model.key,
            "settings": dict(model.settings),
            "task": cohort.task,
            "classes": list(cohort.classes),
            "fold": fold.name,
            "versions": self._versions,
        }
        rows = [_rows_of(cohort, members) for members in (fold.train, fold.validation, fold.test)]
        return store.artefact_id(FORMAT, settings, [*self._features, *rows, _truth_of(cohort, fold.fitted)])


def _rows_of(cohort: Cohort, members: NDArray[np.int64]) -> str:
    named = cohort.slide_id[members].tolist()
    if cohort.row is not None:
        named = [f"{slide}\t{row}" for slide, row in zip(named, cohort.row[members].tolist(), strict=True)]
    return _hash(named)


def _truth_of(cohort: Cohort, members: NDArray[np.int64]) -> str:
    columns = (cohort.label, cohort.value, cohort.time, cohort.event)
    return _hash([repr(column[members].tolist()) for column in columns if column is not None])


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _write(path: Path, fitted: FoldFit) -> None:
    arrays: dict[str, Any] = {"test": fitted.test, "validation": fitted.validation}
    if fitted.attention is not None:
        arrays["attention"] = np.concatenate(fitted.attention)
        arrays["lengths"] = np.array([len(bag) for bag in fitted.attention], dtype=np.int64)
    kept = [{"kind": one.kind, "settings": dict(one.settings)} for one in fitted.fitted]
    arrays |= {f"fitted/{i}/{name}": array for i, one in enumerate(fitted.fitted) for name, array in one.arrays.items()}
    details = np.frombuffer(json.dumps({"details": fitted.details, "fitted": kept}).encode(), dtype=np.uint8)
    with store.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, details=details, **arrays)


def _read(path: Path) -> FoldFit | None:
    """The cached fit; None where there is no readable one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            attention = None
            if "attention" in stored:
                attention = np.split(stored["attention"], np.cumsum(stored["lengths"])[:-1])
            content = json.loads(stored["details"].tobytes())
            fitted = [
                Fitted(one["kind"], _arrays(stored, i), one["settings"]) for i, one in enumerate(content["fitted"])
            ]
            return FoldFit(stored["test"], stored["validation"], content["details"], attention, fitted)
    except Exception:  # a fit that cannot be read is computed again
        return None


def _arrays(stored: np.lib.npyio.NpzFile, seed: int) -> dict[str, NDArray[Any]]:
    start = f"fitted/{seed}/"
    return {name.removeprefix(start): stored[name] for name in stored.files if name.startswith(start)}
