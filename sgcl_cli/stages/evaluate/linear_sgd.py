"""Training of ``--linear sgd`` in one fold."""

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
    """How a linear layer is fitted.

    :ivar epochs: number of epochs.
    :ivar lr: learning rate, divided by ten after 60 % and again after 80 % of the epochs.
    :ivar seed: of the initial weights and the order of rows.
    """

    epochs: int = 100
    lr: float = 0.03
    seed: int = 0


@dataclass(frozen=True)
class LayerFit:
    """Predictions of a linear layer in one fold.

    :ivar test: probabilities of the test rows, (n, K).
    :ivar validation: probabilities of the validation rows, (v, K), from a layer fitted on the training rows alone.
    :ivar fitted: the layer that predicted the test rows.
    """

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
    """Predict the test rows after fitting on training and validation rows, and the validation rows after fitting on the
    training rows alone.

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
