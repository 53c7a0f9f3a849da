"""``--linear sgd`` in one fold: probe/linear_sgd's model joined with the engine's training loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.engine import fit as engine_fit
from sgcl_cli.errors import TrainingError
from sgcl_cli.probe.data.splits import Fold
from sgcl_cli.probe.fitted import softmax_layer
from sgcl_cli.probe.models.linear_sgd import MILESTONES, MOMENTUM, Training
from sgcl_cli.stages.evaluate.mil import threads_for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SgdRecipe:
    """Epochs and learning rate, which is divided by ten after 60 % and 80 % of the epochs."""

    epochs: int = 100
    lr: float = 0.03
    seed: int = 0


@dataclass(frozen=True)
class LayerFit:
    """Probabilities of the test and of the validation rows, (n, K) each, and the layer that gives those of the test rows."""

    test: Floats
    validation: Floats
    fitted: Fitted


def fit_fold(
    recipe: SgdRecipe,
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    fold: Fold,
    *,
    classes: int,
    device: torch.device,
) -> LayerFit:
    """Fit on training and validation rows for the test rows, and without validation rows for these.

    :raises TrainingError: the loss is not finite.
    """

    def trained(rows: NDArray[np.int64]) -> Training:
        work = Training(features, labels, rows, classes=classes, seed=recipe.seed, device=device)
        optimiser = torch.optim.SGD(work.model.parameters(), lr=recipe.lr, momentum=MOMENTUM)
        milestones = [round(share * recipe.epochs) * work.steps for share in MILESTONES]
        try:
            with threads_for(0):
                engine_fit.fit(work, optimiser, epochs=recipe.epochs, lr=engine_fit.in_steps(recipe.lr, milestones))
        except engine_fit.NotFiniteError as error:
            raise TrainingError(f"at --linear-lr {recipe.lr:g} {error.message}", "lower --linear-lr") from error
        return work

    chosen = np.empty((0, classes))
    if len(fold.validation):
        chosen = trained(fold.train).predict(features[fold.validation])
    work = trained(fold.fitted)
    return LayerFit(work.predict(features[fold.test]), chosen, softmax_layer(work.standardise, work.model))
