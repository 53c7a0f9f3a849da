"""``sgcl embed --slide-embedding``: one vector a slide, pooled from the features of its patches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import slide_embeddings, store
from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.artefacts.features import open_file
from sgcl_cli.artefacts.slide_embeddings import SlideEmbeddings
from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.config import EmbedConfig
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.stages.embed.bags import Bag
from sgcl_cli.stages.embed.pooling import PooledBlock, Pooling, mean_of_patches, resolution

MEAN = "mean"
_NAMED = 5


def planned(config: EmbedConfig, card: EncoderCard, bags: Sequence[Bag], identities: Mapping[str, str]) -> Pooling:
    """What ``--slide-embedding`` names, opened and compared with the encoder before anything is embedded.

    :param identities: the id of each slide's file of features.
    :raises ConfigError: neither ``mean`` nor an evaluation; images; a model of another encoder, width or resolution.
    :raises ArtefactError: the evaluation keeps no attention model, or it is damaged.
    """
    assert config.slide_embedding is not None
    if any(bag.columns.get("name") is not None for bag in bags):
        raise ConfigError(
            f"--slide-embedding is for slides, and {config.patches} holds images", "leave --slide-embedding out"
        )
    if config.slide_embedding == MEAN:
        vector = "mean of the patches' features as stored, neither standardised nor normalised"
        return Pooling(MEAN, (PooledBlock(mean_of_patches),), {"vector": vector})
    from sgcl_cli.stages.embed import attention_pooling  # scikit-learn comes with it

    return attention_pooling.planned(config, card, bags, identities)


def write(
    pooling: Pooling,
    home: Path,
    sources: Mapping[str, Path],
    identities: Mapping[str, str],
    card: EncoderCard,
) -> tuple[str, list[str]]:
    """Pool each slide and write the files, unless they are there for the same features; a line for the closing table, and
    warnings.

    Files of features are opened one after the other.

    :param sources: slide id -> its file of features.
    :param identities: slide id -> that file's id.
    :raises ArtefactError: a vector that is not finite, or the disk cannot be written to.
    """
    table = slide_embeddings.paths(home, pooling.name)[1]
    ids = [f"{slide_id}={identities[slide_id]}" for slide_id in sources]
    identity = store.artefact_id(slide_embeddings.FORMAT, pooling.facts, ids)
    if slide_embeddings.is_current(home, pooling.name, identity):
        return f"{table} and .h5ad, there already", []
    vectors, counts, mpps, empty = list[NDArray[np.float32]](), dict[str, int](), list[float](), list[str]()
    for slide_id, path in sources.items():
        file = open_file(path, mapped=True)
        if not len(file):
            empty.append(slide_id)
            continue
        if file.features.shape[1] != card.embedding_size:
            raise ArtefactError(
                f"{path} has features of {file.features.shape[1]} dimensions, the encoder {card.embedding_size}",
                "remove the file and embed this slide again",
            )
        vectors.append(pooling(file))
        counts[slide_id] = len(file)
        mpps.append(resolution(file.geometry))
    warnings = []
    if empty:
        named = listed(empty, _NAMED, quoted=False)
        warnings.append(f"{len(empty)} slides have no patches and no slide embedding: {named}")
    if not vectors:
        return "no slide has patches", warnings
    slides: dict[str, Any] = {"slide_id": [*counts], "n_patches": np.array([*counts.values()]), "mpp": np.array(mpps)}
    if pooling.fitted_on is not None:
        slides["fitted_on"] = [";".join(pooling.fitted_on[slide_id]) for slide_id in counts]
    facts = {
        **pooling.facts,
        "encoder": card.name,
        "encoder_sha256": card.sha256,
        "encoder_feed": json.dumps(card.feed(), sort_keys=True),
        "encoder_mpp": card.mpp,
    }
    values = np.stack(vectors)
    found = SlideEmbeddings(values, slides, _dimensions(pooling, values.shape[1]), facts)
    slide_embeddings.write(home, pooling.name, identity, found)
    return f"{values.shape[0]} x {values.shape[1]}, {table} and .h5ad", warnings


def _dimensions(pooling: Pooling, width: int) -> dict[str, Any]:
    """Names of the columns: numbers for the mean, FOLD/SEED/UNIT for models."""
    if pooling.fitted_on is None:
        return {"name": [str(n) for n in range(width)]}
    units = width // len(pooling.blocks)
    owners = [(block, unit) for block in pooling.blocks for unit in range(units)]
    return {
        "name": [f"{block.fold}/{block.seed}/{unit}" for block, unit in owners],
        "fold": [block.fold for block, _ in owners],
        "seed": np.array([block.seed for block, _ in owners]),
        "unit": np.array([unit for _, unit in owners]),
    }
