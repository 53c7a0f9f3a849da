"""Bag models in one fold: probe/mil's models and targets joined with the engine's training loop, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.engine import fit as engine_fit
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.errors import TrainingError
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.probe.mil import models, training
from sgcl_cli.probe.mil.bags import row_statistics

WEIGHT_DECAY = 1e-4
FEWEST_ROWS_FOR_THREADS = 4096

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MilRecipe:
    """How a bag model is fitted: its name in ``models.MODELS`` and what --mil-* says."""

    model: str = "gated-abmil"
    epochs: int = 60
    patience: int = 12
    lr: float = 3e-4
    hidden: int = 128
    dropout: float = 0.25
    bag_sample: int | None = None


@dataclass
class BagFit:
    """What a fold's models say, seeds apart.

    ``test`` (S, n, K) and ``validation`` (S, v, K) predictions; ``attention`` of each test bag, the mean of the
    seeds' (it sums to 1), None for models without.
    """

    test: Floats
    validation: Floats
    attention: list[NDArray[np.float32]] | None
    best_epochs: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    validation_losses: list[float | None] = field(default_factory=list)


def fit_fold(recipe: MilRecipe, cohort: training.BagCohort, fold: Fold, seeds: Sequence[int]) -> BagFit:
    """Fit the fold's training bags once a seed, stop on its validation bags, predict its test bags.

    :raises TrainingError: the loss is not finite.
    """
    bags = cohort.bags
    mean, scale = row_statistics(bags, fold.train)
    tests, validations, attentions = [], [], []
    record = BagFit(np.empty(0), np.empty(0), None)
    for seed in seeds:
        with engine_runtime.seeded(seed):
            model = models.build(
                recipe.model,
                mean,
                scale,
                outputs=cohort.target.outputs,
                hidden=recipe.hidden,
                dropout=recipe.dropout,
            ).to(bags.rows.device)
            work = training.BagTraining(
                model,
                cohort,
                fold.train,
                fold.validation,
                patience=recipe.patience,
                seed=seed,
                bag_sample=recipe.bag_sample,
            )
            optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=WEIGHT_DECAY, fused=True)
            try:
                with threads_for(work.rows_per_step):
                    engine_fit.fit(work, optimiser, epochs=recipe.epochs, lr=lambda step: recipe.lr)
            except engine_fit.NotFiniteError as error:
                raise TrainingError(f"at --mil-lr {recipe.lr:g} {error.message}", "lower --mil-lr") from error
        work.restore_best()
        test, attention = training.predict(model, cohort, fold.test)
        tests.append(test)
        if len(fold.validation):
            validations.append(training.predict(model, cohort, fold.validation)[0])
        if attention is not None:
            attentions.append(attention)
        record.best_epochs.append(work.best_epoch)
        record.epochs.append(work.epochs)
        record.validation_losses.append(work.best_loss if np.isfinite(work.best_loss) else None)
    record.test = np.stack(tests)
    record.validation = np.stack(validations) if validations else np.empty((len(seeds), 0, record.test.shape[2]))
    if attentions:
        record.attention = [np.mean(of_seeds, axis=0) for of_seeds in zip(*attentions, strict=True)]
    return record


def seeds_of(seed: int, count: int, fold: Fold) -> list[int]:
    """The seeds of a fold's models, from the run's seed and the fold's name."""
    words = np.random.SeedSequence([seed, 2, *fold.name.encode()]).generate_state(count)
    return [int(word) for word in words]


@contextmanager
def threads_for(rows: float) -> Iterator[None]:
    """One thread where batches are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    if rows < FEWEST_ROWS_FOR_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
