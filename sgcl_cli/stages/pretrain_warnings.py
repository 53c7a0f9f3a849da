"""What a person should be told about a pretraining run, in plain words, from its numbers. docs/pretrain.md explains each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sgcl_cli.method import sets
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.method.streams import generator, strips

_SAMPLE = 65_536
_MOST_ALONE = 0.5
_FEWEST_IN_A_CLUSTER = 10
_NOTHING_LEARNED = 0.02  # nats
_COLLAPSED_SPREAD = 0.05
_COLLAPSED_RANK = 2.0


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


def about_epoch(summary: Mapping[str, float | None]) -> list[str]:
    """After an epoch: embeddings that all point the same way."""
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


def about_end(settings: Settings, means: Mapping[str, float]) -> list[str]:
    """After the last epoch: a self term that ended where equal similarities put it, at the logarithm of its candidates."""
    moco = settings.base == "moco"
    compared = 1 + int((settings.queue if moco else settings.uniform_negatives) or 0)
    reached = means.get("self", 0.0)
    if settings.weight_self == 0 or abs(reached - math.log(compared)) > _NOTHING_LEARNED:
        return []
    return [
        f"the self term ended at {reached:.3f}, where ln({compared}) = {math.log(compared):.3f} means that it learned "
        "nothing: use a lower --lr for small batches, weaker views, or more epochs"
    ]
