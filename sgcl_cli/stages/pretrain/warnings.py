"""What a person should be told about a pretraining run, in plain words, from its numbers. docs/pretrain.md explains each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sgcl_cli.method import sets
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.method.streams import generator, strips

_SAMPLE = 65_536
_MOST_ALONE = 0.5
_FEWEST_IN_A_CLUSTER = 10
_NOTHING_LEARNED = 0.25  # nats: a patch's own entry is taken for it 1.3 times as often as any other
_COLLAPSED_SPREAD = 0.05
_COLLAPSED_RANK = 2.0
_FEW_DIMENSIONS = 0.1  # of D


def about_corpus(objective: SGCL) -> list[str]:
    """Before the first step: patches without neighbours, and clusters with too few patches."""
    settings, n = objective.settings, objective.n
    found = []
    if settings.spatial and settings.expansion:
        alone = _share_alone(objective)
        if alone > _MOST_ALONE:
            found.append(
                f"{100 * alone:.0f} % of the patches have no neighbour within {settings.radius:g} patches on their slide: is the "
                "grid wrong? The spatial term learns nothing from them: tile without gaps, or use a larger --radius"
            )
    clusters = settings.clusters or 1
    if settings.clustered and n < _FEWEST_IN_A_CLUSTER * clusters:
        found.append(
            f"{n:,} patches are too few for {clusters:,} clusters, {n / clusters:.1f} patches each: few look-alikes will "
            f"be found; use --clusters {max(2, n // 64)}, more slides, or --no-propagation"
        )
    return found


def _share_alone(objective: SGCL) -> float:
    n = objective.n
    index = torch.arange(n) if n <= _SAMPLE else strips(n, _SAMPLE, generator(objective.seed, "alone"))
    parts = [part.to(objective.device) for part in torch.split(index, 4_096)]
    counts = torch.cat([sets.sizes(objective.spatial(part), part) for part in parts])
    return float((counts == 0).double().mean())


def about_epoch(summary: Mapping[str, Any], settings: Settings, *, dim: int, epochs: int) -> list[str]:
    """After an epoch, by its means: embeddings that are one; once the spatial term has its full weight, or training ends, few
    dimensions used and a spatial term that teaches nothing; and from half-way on a self term that teaches nothing, which is
    slow to fall on few patches.

    What differs from epoch to epoch stands after the colon, so that a run says each once.

    :param summary: what metrics.jsonl has of the epoch: ``epoch``, ``loss``, and the rest by name.
    :param dim: D.
    :param epochs: of the whole training.
    """
    collapsed, epoch = _collapsed(summary), int(summary["epoch"])
    if epoch - 1 < (settings.ramp_epochs or 0.0) and epoch < epochs:
        return collapsed
    few = [] if collapsed else _few_dimensions(summary, settings, dim)
    alone = _self_at_chance(summary, settings) if 2 * epoch >= epochs else []
    return [*collapsed, *few, *alone, *_spatial(summary, settings)]


def _remedy(settings: Settings) -> str:
    easy = settings.negative_law == "uniform" and settings.top_share == 1
    other = "fewer --negatives" if easy else "easier negatives (--negative-law uniform --top-share 1)"
    return f"Try --weight-spatial 0.3, a longer --ramp-epochs, or {other}"


def _collapsed(summary: Mapping[str, Any]) -> list[str]:
    spread, rank = summary.get("spread"), summary.get("effective_rank_v")
    alike = spread is not None and spread < _COLLAPSED_SPREAD
    flat = rank is not None and rank < _COLLAPSED_RANK
    if not alike and not flat:
        return []
    seen = [f"spread {spread:.3f} (0: all the same, 1: everywhere alike)"] if spread is not None else []
    seen += [f"effective rank {rank:.1f}"] if rank is not None else []
    return [
        f"the embeddings have collapsed: {', '.join(seen)}. Use a lower --lr, and look at views.png: views that show nothing, or "
        "patches that are all alike, leave nothing to tell apart"
    ]


def _few_dimensions(summary: Mapping[str, Any], settings: Settings, dim: int) -> list[str]:
    rank, epoch = summary.get("effective_rank_v"), summary["epoch"]
    if rank is None or rank >= _FEW_DIMENSIONS * dim:
        return []
    return [
        f"the embeddings use few of their dimensions: after epoch {epoch} the effective rank of v is {rank:.1f}, under a "
        f"tenth of {dim}. {_remedy(settings)}, and gentler colours and wider crops where patches are few"
    ]


def _self_at_chance(summary: Mapping[str, Any], settings: Settings) -> list[str]:
    moco = settings.base == "moco"
    compared = 1 + int((settings.queue if moco else settings.uniform_negatives) or 0)
    reached, chance, epoch = summary["loss"]["self"], math.log(compared), summary["epoch"]
    if settings.weight_self == 0 or reached is None or reached < chance - _NOTHING_LEARNED:
        return []
    easier = f". {_remedy(settings)}" if settings.spatial else ""
    return [
        f"the self term is at chance or above it: {reached:.2f} in epoch {epoch}, where ln({compared}) = {chance:.2f} means "
        f"that no patch is told from another. Use a lower --lr for small batches, weaker views, or more epochs{easier}"
    ]


def _spatial(summary: Mapping[str, Any], settings: Settings) -> list[str]:
    if not settings.spatial:
        return []
    found, epoch = [], summary["epoch"]
    near, far = summary.get("positive_similarity"), summary.get("negative_similarity")
    if near is not None and far is not None and near < far:
        found.append(
            f"positives are less alike than negatives: in epoch {epoch} the mean cosine of v is {near:.2f} with neighbours and "
            f"look-alikes, {far:.2f} with the negatives drawn. {_remedy(settings)}; where tissue changes within a few patches, "
            "a smaller --radius"
        )
    positives = (summary.get("spatial_positives") or 0.0) + (summary.get("propagated_positives") or 0.0)
    reached, negatives = summary["loss"]["spatial"], settings.negatives or 0
    if settings.as_released or not positives or reached is None:
        return found
    equal = math.log1p(negatives / positives)
    if reached >= equal:
        found.append(
            f"the spatial term is no lower than if all patches were one: {reached:.2f} in epoch {epoch}, where ln(1 + "
            f"{negatives} / {positives:.0f}) = {equal:.2f} is what equal embeddings give. {_remedy(settings)}"
        )
    return found
