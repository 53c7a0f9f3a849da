"""Small slides with features of three numbers, and results as ``sgcl evaluate`` leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sgcl_cli.artefacts import models
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.model_cards import BAGS
from sgcl_cli.artefacts.models import Fitted, Kept
from sgcl_cli.config import EmbedConfig
from sgcl_cli.probe.mil.models import build
from sgcl_cli.stages.evaluate.keep import made_by

HIDDEN = 4
SLIDES = {"a": (4, 4), "b": (5, 3), "c": (1, 1)}


def fit(model: str, dim: int, seed: int) -> Fitted:
    """A bag model of random weights."""
    torch.manual_seed(seed)
    mean, scale = torch.rand(dim), 0.5 + torch.rand(dim)
    network = build(model, mean, scale, outputs=2, hidden=HIDDEN, dropout=0.5)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    return Fitted(BAGS, arrays, {"model": model, "hidden": HIDDEN, "dropout": 0.5, "outputs": 2, "classes": True})


def keep(
    folder: Path,
    features: dict[str, Any],
    names: Sequence[str] = ("dsmil", "abmil", "gated-abmil"),
    fitted_on: dict[str, list[str]] | None = None,
) -> Path:
    """A result of two seeds and the folds that ``fitted_on`` names, each with the slides that it was fitted on."""
    slides = fitted_on or {"1": ["a"], "2": ["b", "z"]}
    card = {
        "result": "id", "level": "slide", "task": "binary", "target": "label", "classes": ["normal", "tumour"],
        "confidence": 0.95, "attention_model": "abmil", "features": features,
        "folds": {fold: {"slides": of, "identities": [], "patients": []} for fold, of in slides.items()},
        "scores": {key: {"name": key, "metrics": {"auroc": {"value": 0.5}}} for key in names},
    }  # fmt: skip
    folds = {
        key: {fold: [fit(key, features["dim"], 10 * n + seed) for seed in (0, 1)] for n, fold in enumerate(slides)}
        for key in names
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    models.write(folder / "models", card, {key: Kept(key.upper(), BAGS, of) for key, of in folds.items()})
    return folder


def features_of(config: EmbedConfig) -> dict[str, Any]:
    """What a card says of the features that a run wrote."""
    return made_by(open_features(config.out).files[0])


def change_card(result: Path, **changes: Any) -> None:
    path = result / "models" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
