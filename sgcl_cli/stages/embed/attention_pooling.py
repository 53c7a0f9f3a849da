"""Slide embeddings by an attention model that ``sgcl evaluate`` fitted and kept.

z = sum_i a_i e_i, what the model's classifier takes (Ilse, Tomczak, Welling 2018, equation 7). Hidden units of two fits have
nothing in common but their number, so fits are never averaged: the model of all patients (``--refit``) is used alone where
there is one, else the fits of all folds and seeds stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts import models, names, store
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.models import Fitted
from sgcl_cli.artefacts.reading import LONGEST_REASON, MISTAKEN
from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.config import EmbedConfig
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.probe import fitted
from sgcl_cli.stages.embed.bags import Bag
from sgcl_cli.stages.embed.pooling import PooledBlock, Pooling, resolution
from sgcl_cli.stages.evaluate.keep import REFIT
from sgcl_cli.stages.kept_models import check_same_encoder, is_fitted_on

_NAMED = 3
_SUFFIX = ".safetensors"


def planned(config: EmbedConfig, card: EncoderCard, bags: Sequence[Bag], identities: Mapping[str, str]) -> Pooling:
    """The attention model that ``--slide-embedding`` names.

    :param identities: the id of each slide's file of features.
    :raises ConfigError: no such folder; a model of another encoder, width, way of embedding, or resolution.
    :raises ArtefactError: no finished evaluation, no attention model in it, or a damaged one.
    """
    result, wanted = _named(Path(config.slide_embedding or ""))
    models_card = models.read_card(result)
    key = _chosen(models_card, result, wanted)
    folds = [REFIT] if REFIT in models_card["folds"] else [*models_card["folds"]]
    warnings = check_same_encoder(models_card, _found(card, bags), config.patches, allow_mpp=config.allow_mpp)
    kept = models.read(result, models_card, key)
    blocks = tuple(
        PooledBlock(_pool(one, f"{kept.name}, fold {fold}"), names.shown(fold), seed)
        for fold in folds
        for seed, one in enumerate(kept.folds[fold])
    )
    by_slide = {
        bag.slide_id: [
            names.shown(fold)
            for fold in folds
            if is_fitted_on(models_card["folds"][fold], bag.slide_id, _identity(bag, identities[bag.slide_id]))
        ]
        for bag in bags
    }
    seen = [slide_id for slide_id, of in by_slide.items() if of]
    if seen:
        warnings.append(
            f"--slide-embedding: the model was fitted on {len(seen)} of these {len(bags)} slides and on their labels, which "
            f"their embeddings therefore contain; do not evaluate them on these slides: {listed(seen, _NAMED)}"
        )
    digests = {name: store.file_sha256(result / models.FOLDER / name) for name in ("card.json", f"{key}{_SUFFIX}")}
    facts = {
        "vector": "mean of the patches' hidden units, weighted by attention; a block a fold and seed",
        "model": key,
        "target": models_card["target"],
        "folds": folds,
        "result": str(models_card["result"]),
        "card_sha256": digests["card.json"],
        "model_sha256": digests[f"{key}{_SUFFIX}"],
    }
    name = f"{key}_{digests[f'{key}{_SUFFIX}'][:8]}"
    return Pooling(name, blocks, facts, by_slide, warnings)


def _named(path: Path) -> tuple[Path, str | None]:
    """The result folder, and a model's key where a file of it is named: RESULT, RESULT/models, RESULT/models/KEY.safetensors.

    :raises ConfigError: there is no such folder or file.
    """
    if not _exists(path):
        raise ConfigError(
            f"--slide-embedding {path}: no such folder", "give mean, or a folder that sgcl evaluate wrote with --out"
        )
    if path.is_file():
        return path.absolute().parent.parent, path.name.removesuffix(_SUFFIX)
    if path.absolute().name == models.FOLDER and not (path / models.FOLDER).exists():
        return path.absolute().parent, None
    return path, None


def _exists(path: Path) -> bool:
    """False also where no path can have this name."""
    try:
        return path.exists()
    except OSError:
        return False


def _chosen(card: Mapping[str, Any], result: Path, wanted: str | None) -> str:
    """The key of the model: the one named, else the first that pools by attention.

    :raises ArtefactError: there is none.
    """
    able = []
    for key, entry in card["models"].items():
        fit = next(iter(entry["folds"].values()))[0]
        if fitted.pools_by_attention(fit["kind"], fit["settings"]):
            able.append(key)
    if not able:
        raise ArtefactError(
            f"{result} keeps no attention model of slides", "evaluate slides with --models abmil, or use mean"
        )
    if wanted is not None and wanted not in able:
        raise ArtefactError(
            f"{result}: '{names.shown(wanted)}' is no attention model of slides", f"there are {', '.join(able)}"
        )
    return wanted or able[0]


def _found(card: EncoderCard, bags: Sequence[Bag]) -> dict[str, Any]:
    """What the features have, in the terms of a card of models."""
    mpps = [mpp for bag in bags if bag.count and not np.isnan(mpp := resolution(bag.geometry))]
    return {
        "dim": card.embedding_size,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "encoder_feed": json.dumps(card.feed(), sort_keys=True),
        "mpp": mpps[0] if mpps else None,
    }


def _identity(bag: Bag, features_id: str) -> str:
    """The slide's identity where it is known, else its features' id, as evaluations record it."""
    return str(bag.attributes.get("source_identity") or features_id)


def _pool(fit: Fitted, where: str) -> Any:
    try:
        return fitted.attention_pooling(fit)
    except (RuntimeError, *MISTAKEN) as error:
        raise ArtefactError(
            f"the model {where} cannot be applied: {str(error)[:LONGEST_REASON]}", "evaluate again with --overwrite"
        ) from error
