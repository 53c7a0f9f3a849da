"""Training of bag models in one fold, once for each seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.engine import fit as engine_fit
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.errors import TrainingError
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.probe.fitted import of_bags
from sgcl_cli.probe.mil import models, training
from sgcl_cli.probe.mil.bags import row_statistics

WEIGHT_DECAY = 1e-4
FEWEST_ROWS_FOR_THREADS = 4096

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MilRecipe:
    """How a bag model is fitted.

    :ivar model: its name in ``probe.mil.models.MODELS``.
    :ivar epochs: maximum number of epochs.
    :ivar patience: epochs without a lower validation loss after which training stops.
    :ivar lr: learning rate of AdamW.
    :ivar hidden: width of the embedding.
    :ivar dropout: rate of dropout.
    :ivar bag_sample: patches drawn of each training bag in every epoch; None for all.
    """

    model: str = "gated-abmil"
    epochs: int = 60
    patience: int = 12
    lr: float = 3e-4
    hidden: int = 128
    dropout: float = 0.25
    bag_sample: int | None = None


@dataclass
class BagFit:
    """Models of a fold, one for each of S seeds, and their predictions.

    :ivar test: (S, n, K), of the test bags.
    :ivar validation: (S, v, K), of the validation bags.
    :ivar attention: of each test bag, mean of the seeds (sums to 1); None for models without attention.
    :ivar best_epochs: the chosen epoch of each seed.
    :ivar epochs: epochs that each seed trained.
    :ivar fitted: the models.
    :ivar validation_losses: the lowest validation loss of each seed; None without validation.
    """

    test: Floats
    validation: Floats
    attention: list[NDArray[np.float32]] | None
    best_epochs: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    fitted: list[Fitted] = field(default_factory=list)
    validation_losses: list[float | None] = field(default_factory=list)


def fit_fold(recipe: MilRecipe, cohort: training.BagCohort, fold: Fold, seeds: Sequence[int]) -> BagFit:
    """Train on the training bags with each seed, choose the epoch on the validation bags, and predict the test bags.

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
        record.fitted.append(
            of_bags(model, cohort.target, name=recipe.model, hidden=recipe.hidden, dropout=recipe.dropout)
        )
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
    """The seeds of the models of a fold, derived from the seed of the run and the name of the fold."""
    words = np.random.SeedSequence([seed, 2, *fold.name.encode()]).generate_state(count)
    return [int(word) for word in words]


@contextmanager
def threads_for(rows: float) -> Iterator[None]:
    """Use one thread if batches have fewer than 4,096 rows: synchronising threads would take longer than computing.

    :param rows: mean number of rows of a batch.
    """
    before = torch.get_num_threads()
    if rows < FEWEST_ROWS_FOR_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
