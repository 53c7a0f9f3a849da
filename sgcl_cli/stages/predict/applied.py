"""What kept models predict for features that they may never have seen.

Shapes: n rows (slides, or patches), F folds, K outputs of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts import reading
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.models import Kept
from sgcl_cli.errors import ArtefactError
from sgcl_cli.probe.fitted import BAGS, predict_bags, predict_rows
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.stages.evaluate import patch_scores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows to predict: the slides of ``files``, or all their patches.

    :ivar file_of: int64 (n,), the file of each row. :ivar row: int64 (n,), the patch within its file; None for slides.
    """

    files: tuple[FeatureFile, ...]
    file_of: NDArray[np.int64]
    row: NDArray[np.int64] | None

    @classmethod
    def of(cls, files: tuple[FeatureFile, ...], level: str) -> Rows:
        """One row a slide, or one a patch."""
        if level == "slide":
            return cls(files, np.arange(len(files)), None)
        lengths = [len(file) for file in files]
        return cls(files, np.repeat(np.arange(len(files)), lengths), np.concatenate([np.arange(n) for n in lengths]))

    def __len__(self) -> int:
        return len(self.file_of)

    def view(self, name: str) -> NDArray[np.floating]:
        """What models of rows take, (n, D): patches, the mean of a slide's patches, or their number as log(1 + n)."""
        if name == "patch":
            return np.concatenate([file.features for file in self.files])
        if name == "count":
            return np.log1p(np.array([[len(file)] for file in self.files], dtype=np.float64))
        return np.stack([file.features.mean(axis=0, dtype=np.float64) for file in self.files])


@dataclass(frozen=True)
class Applied:
    """What one model predicts.

    :ivar folds: by fold (n, K), the mean of its seeds. :ivar used: bool (F, n), whether a fold counts for a row.
    :ivar attention: of each slide, the mean over the folds that count; None for models without.
    :ivar patches: of each slide what is said of its patches, (N, K), the mean over the folds that count; None where not asked.
    """

    name: str
    folds: Mapping[str, Floats]
    used: NDArray[np.bool_]
    attention: list[NDArray[np.float32]] | None
    patches: list[Floats] | None = None

    @property
    def mean(self) -> Floats:
        """Of the folds that count, (n, K)."""
        weight = self.used[:, :, None]
        mean: Floats = (np.stack([*self.folds.values()]) * weight).sum(0) / weight.sum(0)
        return mean

    @property
    def spread(self) -> Floats:
        """Standard deviation over the folds that count, (n, K); NaN where that is one."""
        weight = self.used[:, :, None]
        count = weight.sum(0)
        squares = ((np.stack([*self.folds.values()]) - self.mean) ** 2 * weight).sum(0)
        spread: Floats = np.sqrt(np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan))
        return spread


def apply(kept: Kept, rows: Rows, used: NDArray[np.bool_], device: torch.device, *, patches: bool = False) -> Applied:
    """Predictions of the folds of a model, in their order.

    :param used: bool (F, n), which folds count for which rows. :param patches: of slides' patches too.
    :raises ArtefactError: a prediction is not finite.
    """
    views: dict[str, Any] = {}
    folds: dict[str, Floats] = {}
    attention: list[list[NDArray[np.float32]]] = []
    for fold, fits in kept.folds.items():
        predicted, of_seeds = [], []
        for one in fits:
            if one.kind == BAGS:
                if BAGS not in views:
                    views[BAGS] = _bags(rows.files, device)
                values, weights = predict_bags(one, views[BAGS])
                if weights is not None:
                    of_seeds.append(weights)
            else:
                if kept.view not in views:
                    views[kept.view] = rows.view(kept.view)
                values = predict_rows(one, views[kept.view])
            predicted.append(values)
        folds[fold] = np.mean(predicted, axis=0)
        if of_seeds:
            attention.append([np.mean(each, axis=0) for each in zip(*of_seeds, strict=True)])
    _finite(kept.name, rows, folds)
    looked = None
    if attention:
        looked = [
            np.mean([of_fold[i] for of_fold, counts in zip(attention, used[:, i], strict=True) if counts], axis=0)
            for i in range(len(rows.files))
        ]
    return Applied(kept.name, folds, used, looked, _patches(kept, rows, used, device) if patches else None)


def tried(kept: Kept, width: int, path: Path) -> Kept:
    """The same, once each fit has predicted something for one row of features: its weights are those that its settings say.

    :param path: where it was read from.
    :raises ArtefactError: a fit cannot be applied.
    """
    row = np.ones((1, 1 if kept.view == "count" else width), np.float32)
    bag = Bags(torch.from_numpy(row), torch.tensor([0, 1]))
    try:
        for fits in kept.folds.values():
            for one in fits:
                predict_bags(one, bag) if one.kind == BAGS else predict_rows(one, row)
    except (*reading.MISTAKEN, RuntimeError) as error:
        raise ArtefactError(
            f"{path} does not hold the weights of {kept.name} that card.json describes",
            "evaluate again with this version",
        ) from error
    return kept


def _finite(name: str, rows: Rows, folds: Mapping[str, Floats]) -> None:
    """:raises ArtefactError: a model predicts no finite number for a row."""
    finite = np.isfinite(np.stack([*folds.values()])).all(axis=(0, 2))
    if not finite.all():
        file = rows.files[rows.file_of[int(np.flatnonzero(~finite)[0])]]
        raise ArtefactError(
            f"{name} predicts no finite number for '{file.slide_id}'",
            f"look at the numbers in {file.path}: they are far from those that it was fitted on",
        )


def _patches(kept: Kept, rows: Rows, used: NDArray[np.bool_], device: torch.device) -> list[Floats]:
    """Of each slide what the folds that count say of its patches, (N, K)."""
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


def _bags(files: tuple[FeatureFile, ...], device: torch.device) -> Bags:
    dtype = np.result_type(*{file.features.dtype for file in files})
    rows = torch.from_numpy(np.concatenate([np.asarray(file.features, dtype) for file in files]))
    offsets = torch.tensor([0, *np.cumsum([len(file) for file in files]).tolist()], dtype=torch.int64)
    return Bags(rows.to(device), offsets.to(device))
