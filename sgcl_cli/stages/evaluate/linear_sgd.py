"""``--linear sgd`` in one fold: probe/linear_sgd's model joined with the engine's training loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.engine import fit as engine_fit
from sgcl_cli.errors import TrainingError
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.probe.models.linear_sgd import MILESTONES, MOMENTUM, Training
from sgcl_cli.stages.evaluate.mil import threads_for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SgdRecipe:
    """Epochs and learning rate, which is divided by ten after 60 % and 80 % of the epochs."""

    epochs: int = 100
    lr: float = 0.03
    seed: int = 0


def fit_fold(
    recipe: SgdRecipe,
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    fold: Fold,
    *,
    classes: int,
    device: torch.device,
) -> tuple[Floats, Floats]:
    """Probabilities of the test rows, fitted on training and validation rows, and of the validation rows, fitted without
    them: (n, K) each.

    :raises TrainingError: the loss is not finite.
    """

    def told(fitted: NDArray[np.int64], asked: NDArray[np.int64]) -> Floats:
        work = Training(features, labels, fitted, classes=classes, seed=recipe.seed, device=device)
        optimiser = torch.optim.SGD(work.model.parameters(), lr=recipe.lr, momentum=MOMENTUM)
        milestones = [round(share * recipe.epochs) * work.steps for share in MILESTONES]
        try:
            with threads_for(0):
                engine_fit.fit(work, optimiser, epochs=recipe.epochs, lr=engine_fit.in_steps(recipe.lr, milestones))
        except engine_fit.NotFiniteError as error:
            raise TrainingError(f"at --linear-lr {recipe.lr:g} {error.message}", "lower --linear-lr") from error
        return work.predict(features[asked])

    chosen = told(fold.train, fold.validation) if len(fold.validation) else np.empty((0, classes))
    return told(fold.fitted, fold.test), chosen
