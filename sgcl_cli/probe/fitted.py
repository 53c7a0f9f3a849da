"""Stored models: conversion of fitted models to arrays and settings, and their predictions for new rows or bags.

A row model takes features (n, D) of slides or patches; a bag model takes all patches of each slide. Both return (n, K):
class probabilities, the value of a regression, or the log risk of survival.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sgcl_cli.artefacts.model_cards import BAGS
from sgcl_cli.artefacts.models import REFERENCE, REFERENCE_ROWS, Fitted
from sgcl_cli.probe.mil import models as bag_models
from sgcl_cli.probe.mil.abmil import Attention
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.model import BagModel
from sgcl_cli.probe.mil.training import MOST_BAGS, MOST_ROWS, forward
from sgcl_cli.probe.models import knn, simpleshot
from sgcl_cli.probe.models.linear import LinearProbe, probability
from sgcl_cli.probe.models.linear_cox import CoxProbe
from sgcl_cli.probe.models.penalised import Solution
from sgcl_cli.probe.models.ridge import RidgeProbe
from sgcl_cli.probe.models.standardise import Standardiser
from sgcl_cli.probe.models.targets import Measurements, Target

Floats = NDArray[np.float64]


def constant(value: Floats) -> Fitted:
    """A model that always predicts ``value`` (K,)."""
    return Fitted("constant", {"value": value})


def logistic(probe: LinearProbe) -> Fitted:
    """A logistic regression."""
    arrays = {**_linear(probe.standardise, probe.solution), "present": probe.present}
    return Fitted("logistic", arrays, {"classes": probe.classes})


def ridge(probe: RidgeProbe) -> Fitted:
    """A ridge regression."""
    standardise = {"mean": probe.standardise.mean, "scale": probe.standardise.scale}
    return Fitted(
        "ridge", {**standardise, "coefficients": probe.coefficients, "intercept": np.array([probe.intercept])}
    )


def cox(probe: CoxProbe) -> Fitted:
    """A Cox regression."""
    return Fitted("cox", _linear(probe.standardise, probe.solution))


def neighbours(
    rows: NDArray[np.int64], labels: NDArray[np.int64], *, k: int, temperature: float, classes: int
) -> Fitted:
    """A weighted kNN; the reference rows are stored as row numbers, with their labels."""
    settings = {"k": k, "temperature": temperature, "classes": classes}
    return Fitted("knn", {REFERENCE_ROWS: rows, "labels": labels}, settings)


def centroids(found: simpleshot.Centroids) -> Fitted:
    """SimpleShot."""
    arrays = {"mean": found.mean, "centroids": found.centroids, "present": found.present}
    return Fitted("simpleshot", arrays, {"classes": found.classes})


def softmax_layer(standardise: Standardiser, layer: nn.Linear) -> Fitted:
    """A linear layer fitted by SGD on standardised features."""
    weights = {name: value.detach().cpu().numpy().copy() for name, value in layer.state_dict().items()}
    return Fitted("sgd", {"mean": standardise.mean, "scale": standardise.scale, **weights})


def of_bags(model: BagModel, target: Target, *, name: str, hidden: int, dropout: float) -> Fitted:
    """A bag model: its weights, and for a regression mean and scale of the training values."""
    arrays = {key: value.detach().cpu().numpy().copy() for key, value in model.state_dict().items()}
    settings: dict[str, Any] = {"model": name, "hidden": hidden, "dropout": dropout, "outputs": target.outputs}
    if isinstance(target, Measurements):
        settings["target"] = {"mean": target.mean, "scale": target.scale}
    return Fitted(BAGS, arrays, {**settings, "classes": target.classes is not None})


def predict_rows(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    """Predictions (n, K) of a row model for features (n, D)."""
    return ROW_MODELS[fitted.kind](fitted, features)


def scores_patches(kind: str, settings: Mapping[str, Any], view: str) -> bool:
    """Whether a slide-level model can score single patches; models of patch counts or of ordered patches cannot."""
    if kind == BAGS:
        known = bag_models.MODELS.get(settings["model"])
        return known is not None and not known[0].ordered
    return view == "mean"


def predict_patches(fitted: Fitted, features: NDArray[np.floating], device: torch.device) -> Floats:
    """Predictions (N, K) of a slide-level model for patches (N, D), each as a slide of one patch.

    In linear models of the mean feature, the score of a slide (before softmax) is the mean of the scores of its patches. In
    attention models it is their mean weighted by attention.
    """
    if fitted.kind != BAGS:
        return predict_rows(fitted, features)
    rows = torch.from_numpy(np.array(features)).to(device)
    alone = Bags(rows, torch.arange(len(rows) + 1, device=device))
    return predict_bags(fitted, alone, most_bags=MOST_ROWS)[0]


def predict_bags(
    fitted: Fitted, bags: Bags, *, most_bags: int = MOST_BAGS
) -> tuple[Floats, list[NDArray[np.float32]] | None]:
    """Predictions (B, K) of a bag model, and the attention of each bag (rows of the bag,), which sums to 1; None without."""
    settings = fitted.settings
    model = _bag_model(fitted)
    scores, attention = forward(model.to(bags.rows.device), bags, np.arange(len(bags)), most_bags=most_bags)
    scores = scores.double()
    if settings["classes"]:
        scores = torch.softmax(scores, dim=1)
    elif "target" in settings:
        scores = scores * settings["target"]["scale"] + settings["target"]["mean"]
    return scores.cpu().numpy(), attention


def pools_by_attention(kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether a model of slides has one attention-weighted mean of embedded patches: ABMIL, plain or gated, and CLAM."""
    known = bag_models.MODELS.get(settings.get("model", "")) if kind == BAGS else None
    return known is not None and issubclass(known[0], Attention)


def attention_pooling(fitted: Fitted) -> Callable[[NDArray[np.floating]], NDArray[np.float32]]:
    """z (H,) of a slide's patches (N, D), N >= 1: z = sum_i a_i e_i, what the classifier of an attention model takes; on the CPU.

    :raises RuntimeError: the arrays are not the weights of such a model.
    """
    model = _bag_model(fitted)
    if not isinstance(model, Attention):
        raise RuntimeError(f"{fitted.settings['model']} does not pool by attention")
    network: Attention = model.eval()

    @torch.inference_mode()
    def pooled(features: NDArray[np.floating]) -> NDArray[np.float32]:
        rows = torch.from_numpy(np.array(features, np.float32))
        z_1H, _ = network.pooled(Bags(rows, torch.tensor([0, len(rows)])))
        found: NDArray[np.float32] = z_1H[0].numpy()
        return found

    return pooled


def _bag_model(fitted: Fitted) -> BagModel:
    """The network of a stored bag model. Shapes are compared on the meta device first, so wrong settings allocate nothing.

    :raises RuntimeError: the arrays are not the weights of such a network.
    """
    state = {name: torch.from_numpy(np.array(array)) for name, array in fitted.arrays.items()}
    width = len(state["shift"])
    sizes = {name: fitted.settings[name] for name in ("outputs", "hidden", "dropout")}
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = bag_models.build(fitted.settings["model"], torch.zeros(width), torch.ones(width), **sizes)
        if {name: value.shape for name, value in model.state_dict().items()} != {n: v.shape for n, v in state.items()}:
            raise RuntimeError("its arrays are not the weights of the network that the card describes")
    model.load_state_dict(state)
    return model


def _linear(standardise: Standardiser, solution: Solution) -> dict[str, NDArray[Any]]:
    given = {"coefficients": solution.coefficients, "intercept": solution.intercept}
    return {"mean": standardise.mean, "scale": standardise.scale, **given}


def _scores(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    standardise = Standardiser(fitted.arrays["mean"], fitted.arrays["scale"])
    scores: Floats = standardise(features) @ fitted.arrays["coefficients"] + fitted.arrays["intercept"]
    return scores


def _constant(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    return np.tile(fitted.arrays["value"], (len(features), 1))


def _logistic(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    return probability(_scores(fitted, features), fitted.arrays["present"], fitted.settings["classes"])


def _ridge(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    return _scores(fitted, features)[:, None]


def _neighbours(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    settings, k = fitted.settings, fitted.settings["k"]
    how: dict[str, Any] = {"classes": settings["classes"], "ks": (k,), "temperature": settings["temperature"]}
    return knn.votes(fitted.arrays[REFERENCE], fitted.arrays["labels"], features, **how)[k]


def _centroids(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    arrays = fitted.arrays
    return simpleshot.Centroids(arrays["mean"], arrays["centroids"], arrays["present"], fitted.settings["classes"])(
        features
    )


def _softmax_layer(fitted: Fitted, features: NDArray[np.floating]) -> Floats:
    arrays = fitted.arrays
    rows = torch.from_numpy(Standardiser(arrays["mean"], arrays["scale"])(features).astype(np.float32))
    weight, bias = (torch.from_numpy(np.array(arrays[name])) for name in ("weight", "bias"))
    found: Floats = torch.softmax(nn.functional.linear(rows, weight, bias).double(), dim=1).numpy()
    return found


ROW_MODELS: dict[str, Callable[[Fitted, NDArray[np.floating]], Floats]] = {
    "constant": _constant,
    "logistic": _logistic,
    "ridge": _ridge,
    "cox": _scores,
    "knn": _neighbours,
    "simpleshot": _centroids,
    "sgd": _softmax_layer,
}
