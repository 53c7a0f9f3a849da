"""Predictions of stored models.

Shapes: n rows (slides or patches), F folds, K outputs of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.model_cards import BAGS
from sgcl_cli.artefacts.models import Fitted, Kept
from sgcl_cli.artefacts.reading import LONGEST_REASON, MISTAKEN
from sgcl_cli.errors import ArtefactError
from sgcl_cli.probe.fitted import predict_bags, predict_rows
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.stages.evaluate import patch_scores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows to predict: the slides of ``files``, or all their patches. Views are computed once for all models.

    :ivar files: features.
    :ivar file_of: int64 (n,), the file of each row.
    :ivar row: int64 (n,), index of the patch within its file; None for slides.
    """

    files: tuple[FeatureFile, ...]
    file_of: NDArray[np.int64]
    row: NDArray[np.int64] | None
    _views: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, files: tuple[FeatureFile, ...], level: str) -> Rows:
        """One row for each slide, or for each patch if ``level`` is ``patch``."""
        if level == "slide":
            return cls(files, np.arange(len(files)), None)
        lengths = [len(file) for file in files]
        return cls(files, np.repeat(np.arange(len(files)), lengths), np.concatenate([np.arange(n) for n in lengths]))

    def __len__(self) -> int:
        return len(self.file_of)

    def view(self, name: str) -> NDArray[np.floating]:
        """Input of models of rows, (n, D).

        :param name: ``patch`` for features of patches, ``mean`` for their mean in each slide, ``count`` for log(1 + number).
        """
        if name not in self._views:
            self._views[name] = self._viewed(name)
        view: NDArray[np.floating] = self._views[name]
        return view

    def bags(self, device: torch.device) -> Bags:
        """Input of models of bags: all patches of each slide."""
        if BAGS not in self._views:
            self._views[BAGS] = _bags(self.files, device)
        bags: Bags = self._views[BAGS]
        return bags

    def _viewed(self, name: str) -> NDArray[np.floating]:
        if name == "patch":
            return np.concatenate([file.features for file in self.files])
        if name == "count":
            return np.log1p(np.array([[len(file)] for file in self.files], dtype=np.float64))
        return np.stack([file.features.mean(axis=0, dtype=np.float64) for file in self.files])


@dataclass(frozen=True)
class Applied:
    """Predictions of one model. A fold is used for a row if it was not fitted on its slide or patient.

    :ivar name: title of the model.
    :ivar folds: (n, K) by fold, mean of the seeds.
    :ivar used: bool (F, n), whether a fold is used for a row.
    :ivar attention: of each slide (N,), mean of the folds used; None for models without attention.
    :ivar patches: scores of the patches of each slide, (N, K), mean of the folds used; None where not requested.
    """

    name: str
    folds: Mapping[str, Floats]
    used: NDArray[np.bool_]
    attention: list[NDArray[np.float32]] | None
    patches: list[Floats] | None = None

    @property
    def mean(self) -> Floats:
        """Mean of the folds used, (n, K)."""
        weight = self.used[:, :, None]
        mean: Floats = (np.stack([*self.folds.values()]) * weight).sum(0) / weight.sum(0)
        return mean

    @property
    def spread(self) -> Floats:
        """Standard deviation over the folds used, (n, K); NaN where a single fold is used."""
        weight = self.used[:, :, None]
        count = weight.sum(0)
        squares = ((np.stack([*self.folds.values()]) - self.mean) ** 2 * weight).sum(0)
        spread: Floats = np.sqrt(np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan))
        return spread


def apply(
    kept: Kept, rows: Rows, used: NDArray[np.bool_], device: torch.device, outputs: int, *, patches: bool = False
) -> Applied:
    """Predictions of all folds of a model.

    :param used: bool (F, n), whether a fold is used for a row.
    :param outputs: K.
    :param patches: whether to score the patches of slides too.
    :raises ArtefactError: the arrays or settings of the model are not valid for its kind.
    """
    folds: dict[str, Floats] = {}
    attention: dict[int, list[NDArray[np.float32]]] = {}
    for number, (fold, fits) in enumerate(kept.folds.items()):
        predicted, of_seeds = [], []
        for one in fits:
            view = rows.bags(device) if one.kind == BAGS else rows.view(kept.view)
            values, weights = _predicted(one, view, (len(rows), outputs), f"{kept.name}, fold {fold}")
            predicted.append(values)
            if weights is not None:
                of_seeds.append(weights)
        folds[fold] = np.mean(predicted, axis=0)
        if of_seeds:
            attention[number] = [np.mean(each, axis=0) for each in zip(*of_seeds, strict=True)]
    looked = None
    if attention:
        looked = [
            np.mean([of_fold[i] for number, of_fold in attention.items() if used[number, i]], axis=0)
            for i in range(len(rows.files))
        ]
    return Applied(kept.name, folds, used, looked, _patches(kept, rows, used, device) if patches else None)


def _patches(kept: Kept, rows: Rows, used: NDArray[np.bool_], device: torch.device) -> list[Floats]:
    """Scores of the patches of each slide, (N, K), mean of the folds used."""
    return [
        np.mean(
            [
                patch_scores.mean_of_seeds(fits, file.features, device)
                for fits, counts in zip(kept.folds.values(), used[:, i], strict=True)
                if counts
            ],
            axis=0,
        )
        for i, file in enumerate(rows.files)
    ]


def _predicted(
    fitted: Fitted, view: Any, shape: tuple[int, int], where: str
) -> tuple[Floats, list[NDArray[np.float32]] | None]:
    """Predictions of one fitted model, finite and of the given shape, and its attention.

    :param where: name of the model for messages.
    :raises ArtefactError: its arrays or settings are not valid for its kind.
    """
    try:
        with np.errstate(all="ignore"):
            values, weights = predict_bags(fitted, view) if fitted.kind == BAGS else (predict_rows(fitted, view), None)
        if values.shape != shape:
            raise ValueError(f"its predictions have the shape {values.shape} instead of {shape}")
        if not np.isfinite(values).all():
            raise ValueError("its predictions are not finite")
    except (RuntimeError, *MISTAKEN) as error:
        reason = str(error)[:LONGEST_REASON]
        raise ArtefactError(
            f"the model {where} cannot be applied: {reason}", "evaluate again with --overwrite"
        ) from error
    return values, weights


def _bags(files: tuple[FeatureFile, ...], device: torch.device) -> Bags:
    dtype = np.result_type(*{file.features.dtype for file in files})
    rows = torch.from_numpy(np.concatenate([np.asarray(file.features, dtype) for file in files]))
    offsets = torch.tensor([0, *np.cumsum([len(file) for file in files]).tolist()], dtype=torch.int64)
    return Bags(rows.to(device), offsets.to(device))
