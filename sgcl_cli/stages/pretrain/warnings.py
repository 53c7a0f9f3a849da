"""Warnings of a pretraining run, derived from its numbers. docs/pretrain.md explains each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch

from sgcl_cli.method import sets
from sgcl_cli.method.objective import Objective
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.method.streams import generator, strips
from sgcl_cli.progress import Reporter

_SAMPLE = 65_536
_MOST_ALONE = 0.5
_FEWEST_IN_A_CLUSTER = 10
_NOTHING_LEARNED = 0.25  # nats: a patch's own entry is taken for it 1.3 times as often as any other
_COLLAPSED_SPREAD = 0.05
_COLLAPSED_RANK = 2.0
_FEW_DIMENSIONS = 0.1  # of D


class WarningKind(Enum):
    """What a warning is about."""

    CLAMPED = auto()
    NO_PICTURES = auto()
    NO_NEIGHBOURS = auto()
    SMALL_CLUSTERS = auto()
    COLLAPSED = auto()
    FEW_DIMENSIONS = auto()
    AT_CHANCE = auto()
    SIMILARITIES_REVERSED = auto()
    SPATIAL_TERM_HIGH = auto()


@dataclass(frozen=True)
class TrainingWarning:
    """A warning of a pretraining run.

    :ivar kind: what it is about.
    :ivar message: the text for the user, with the numbers of the moment.
    :ivar subject: the option or the term that it concerns, where one run may have several of a kind.
    """

    kind: WarningKind
    message: str
    subject: str = ""


class Warnings:
    """The warnings of a run, each shown once.

    :ivar messages: those shown so far, for run.json.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.messages: list[str] = []
        self._shown: set[tuple[WarningKind, str]] = set()
        self._reporter = reporter

    def show(self, warnings: Iterable[TrainingWarning]) -> None:
        """Show the warnings whose kind and subject were not shown before."""
        for warning in warnings:
            if (warning.kind, warning.subject) not in self._shown:
                self._shown.add((warning.kind, warning.subject))
                self.messages.append(warning.message)
                self._reporter.warn(warning.message)


def about_corpus(objective: Objective) -> list[TrainingWarning]:
    """Warnings before the first step: patches without neighbours, and clusters of too few patches, where SGCL needs them."""
    settings, n = objective.settings, objective.n
    found: list[TrainingWarning] = []
    if not isinstance(objective, SGCL):
        return found
    if settings.spatial and settings.expansion:
        alone = _share_alone(objective)
        if alone > _MOST_ALONE:
            found.append(
                TrainingWarning(
                    WarningKind.NO_NEIGHBOURS,
                    f"{100 * alone:.0f} % of the patches have no neighbour within {settings.radius:g} patches on their slide: "
                    "is the grid wrong? The spatial term learns nothing from them: tile without gaps, or use a larger --radius",
                )
            )
    clusters = settings.clusters
    if settings.clustered and n < _FEWEST_IN_A_CLUSTER * clusters:
        found.append(
            TrainingWarning(
                WarningKind.SMALL_CLUSTERS,
                f"{n:,} patches are too few for {clusters:,} clusters, {n / clusters:.1f} patches each: few look-alikes will "
                f"be found; use --clusters {max(2, n // 64)}, more slides, or --no-propagation",
            )
        )
    return found


def _share_alone(objective: SGCL) -> float:
    n = objective.n
    index = torch.arange(n) if n <= _SAMPLE else strips(n, _SAMPLE, generator(objective.seed, "alone"))
    parts = [part.to(objective.device) for part in torch.split(index, 4_096)]
    counts = torch.cat([sets.sizes(objective.spatial(part), part) for part in parts])
    return float((counts == 0).double().mean())


def about_epoch(summary: Mapping[str, Any], objective: Objective, *, dim: int, epochs: int) -> list[TrainingWarning]:
    """Warnings after an epoch, from its means.

    Collapse is looked for after every epoch. Few dimensions in use and a spatial term that teaches nothing are looked for once
    the spatial term has its full weight, or training ends; a term at chance from half-way on, since it falls slowly on few
    patches.

    :param summary: what metrics.jsonl has of the epoch: ``epoch``, ``loss``, and the rest by name.
    :param dim: D.
    :param epochs: of the whole training.
    """
    collapsed, epoch = _collapsed(summary, dim), int(summary["epoch"])
    if epoch - 1 < objective.settings.ramp_epochs and epoch < epochs:
        return collapsed
    few = [] if collapsed else _few_dimensions(summary, objective, dim)
    alone = _at_chance(summary, objective) if 2 * epoch >= epochs else []
    spatial = _spatial(summary, objective.settings) if _is_spatial(objective) else []
    return [*collapsed, *few, *alone, *spatial]


def _is_spatial(objective: Objective) -> bool:
    return isinstance(objective, SGCL) and objective.settings.spatial


def _remedy(settings: Settings) -> str:
    easy = settings.negative_law == "uniform" and settings.top_share == 1
    other = "fewer --negatives" if easy else "easier negatives (--negative-law uniform --top-share 1)"
    return f"Try --weight-spatial 0.3, a longer --ramp-epochs, or {other}"


def _collapsed(summary: Mapping[str, Any], dim: int) -> list[TrainingWarning]:
    spread, rank = summary.get("spread"), summary.get("effective_rank_v")
    alike = spread is not None and spread < _COLLAPSED_SPREAD
    flat = rank is not None and rank < min(_COLLAPSED_RANK, 1 + (dim - 1) / 4)  # the rank is at most dim
    if not alike and not flat:
        return []
    seen = [f"spread {spread:.3f} (0: all the same, 1: everywhere alike)"] if spread is not None else []
    seen += [f"effective rank {rank:.1f}"] if rank is not None else []
    return [
        TrainingWarning(
            WarningKind.COLLAPSED,
            f"the embeddings have collapsed: {', '.join(seen)}. Use a lower --lr, and look at views.png: views that show "
            "nothing, or patches that are all alike, leave nothing to tell apart",
        )
    ]


def _few_dimensions(summary: Mapping[str, Any], objective: Objective, dim: int) -> list[TrainingWarning]:
    rank, epoch = summary.get("effective_rank_v"), summary["epoch"]
    most = min(dim, objective.n)
    if rank is None or rank >= _FEW_DIMENSIONS * most:
        return []
    remedy = f"{_remedy(objective.settings)}, and" if isinstance(objective, SGCL) else "Try"
    return [
        TrainingWarning(
            WarningKind.FEW_DIMENSIONS,
            f"the embeddings use few of their dimensions: after epoch {epoch} the effective rank of v is {rank:.1f}, under a "
            f"tenth of {most}. {remedy} gentler colours and wider crops where patches are few",
        )
    ]


def _at_chance(summary: Mapping[str, Any], objective: Objective) -> list[TrainingWarning]:
    found, epoch = [], summary["epoch"]
    easier = f". {_remedy(objective.settings)}" if _is_spatial(objective) else ""
    for term, candidates in objective.candidates.items():
        reached, chance = summary["loss"][term], math.log(candidates)
        if reached is not None and reached >= chance - _NOTHING_LEARNED:
            found.append(
                TrainingWarning(
                    WarningKind.AT_CHANCE,
                    f"the {term} term is at chance or above it: {reached:.2f} in epoch {epoch}, where ln({candidates}) = "
                    f"{chance:.2f} means that no patch is distinguished from another. Use a lower --lr for small batches, weaker "
                    f"views, or more epochs{easier}",
                    subject=term,
                )
            )
    return found


def _spatial(summary: Mapping[str, Any], settings: Settings) -> list[TrainingWarning]:
    found, epoch = [], summary["epoch"]
    near, far = summary.get("positive_similarity"), summary.get("negative_similarity")
    if near is not None and far is not None and near < far:
        found.append(
            TrainingWarning(
                WarningKind.SIMILARITIES_REVERSED,
                f"positives are less alike than negatives: in epoch {epoch} the mean cosine of v is {near:.2f} with neighbours "
                f"and look-alikes, {far:.2f} with the negatives drawn. {_remedy(settings)}; where tissue changes within a few "
                "patches, a smaller --radius",
            )
        )
    positives = (summary.get("spatial_positives") or 0.0) + (summary.get("propagated_positives") or 0.0)
    reached, negatives = summary["loss"]["spatial"], settings.negatives
    if settings.as_released or not positives or reached is None:
        return found
    equal = math.log1p(negatives / positives)
    if reached >= equal:
        found.append(
            TrainingWarning(
                WarningKind.SPATIAL_TERM_HIGH,
                f"the spatial term is no lower than with equal embeddings: {reached:.2f} in epoch {epoch}, where ln(1 + "
                f"{negatives} / {positives:.0f}) = {equal:.2f} is what equal embeddings give. {_remedy(settings)}",
            )
        )
    return found
