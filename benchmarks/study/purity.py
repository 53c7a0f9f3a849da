"""Test of the premise of the method on labels: share of positives and of negatives with the class of their anchor.

Computed from the checkpoints of a run: banks and clusters at the end of each epoch, with the bank rows of the anchors as their
embeddings. Only labelled anchors and companions (positives or negatives) count, and only pairs on slides labelled by the same
scheme: spots are cancer or immune, masks tumour or other.

    python -m benchmarks.study.purity TILES      # shares by radius R on labelled patches, without training
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import load_checkpoint
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.method import sets
from sgcl_cli.method.positives import Neighbourhood
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.stages.pretrain.state import epochs_kept

RADII = (1.1, 2, 3, 5, 7, 10, 20)
_AT_ONCE = 128
KINDS = ("spatial", "propagated", "negatives")


@dataclass(frozen=True)
class Kinds:
    """Labels of N patches: ``label`` int64 (N,), -1 if unknown; ``scheme`` int64 (N,), number of the slide's set of classes."""

    label: Tensor
    scheme: Tensor


def of_run(patches: Path, run: Path) -> list[dict[str, Any]]:
    """One entry per stored checkpoint: the share of companions of the class of their anchor, by kind and scheme.

    ``chance``: that share among all pairs of labelled patches of the scheme. ``pairs``: the number of pairs.
    """
    index = PatchIndex.open(patches)
    kinds, names = kinds_of(index)
    resolved = store.read_json(run / "run.json")
    settings = Settings(**resolved["result"]["objective"])
    found = []
    for path in epochs_kept(run):
        content = load_checkpoint(path)
        objective = _objective(settings, index, content["objective"], resolved["config"]["seed"])
        epoch, _, step = content["position"]
        found.append({"epoch": epoch, "schemes": _named(shares_of_kind(objective, kinds, step=step), names)})
    return found


def by_radius(patches: Path, radii: Sequence[float]) -> list[dict[str, Any]]:
    """Shares among spatial neighbours, one entry per radius R, as in ``of_run`` without the epoch."""
    index = PatchIndex.open(patches)
    kinds, names = kinds_of(index)
    known_B = (kinds.label >= 0).nonzero()[:, 0]
    found = []
    for radius in radii:
        near = Neighbourhood(torch.from_numpy(index.slide_of), torch.from_numpy(index.cells), radius).of(known_B)
        owner, member = _pairs(near, known_B)
        tally: dict[tuple[int, str], np.ndarray] = {}
        _count(tally, "spatial", kinds, owner, member)
        schemes = torch.unique(kinds.scheme[known_B]).tolist()
        shares = {number: {**_shares(tally, number), "chance": _chance(kinds, number)} for number in schemes}
        found.append({"radius": radius, "schemes": _named(shares, names)})
    return found


def kinds_of(index: PatchIndex) -> tuple[Kinds, list[str]]:
    """The labels of the patches, and the names of the schemes: the classes that occur, joined by slashes."""
    label: list[np.ndarray] = []
    schemes: dict[str, int] = {}
    scheme: list[np.ndarray] = []
    for file in index.files:
        own = np.full(len(file), -1, np.int64) if file.label is None else file.label.astype(np.int64)
        present = [file.label_names[number] for number in np.unique(own[own >= 0])]
        name = "/".join(sorted(present)) or "none"
        label.append(own)
        scheme.append(np.full(len(file), schemes.setdefault(name, len(schemes)), np.int64))
    return Kinds(torch.from_numpy(np.concatenate(label)), torch.from_numpy(np.concatenate(scheme))), [*schemes]


def shares_of_kind(objective: SGCL, kinds: Kinds, *, step: int) -> dict[int, dict[str, dict[str, float | int | None]]]:
    """``same`` (share of the class of the anchor) and ``pairs``, by scheme and kind of companion; by scheme also ``chance``."""
    assert objective.bank_v is not None
    tally: dict[tuple[int, str], np.ndarray] = {}
    for index_B in torch.split((kinds.label >= 0).nonzero()[:, 0], _AT_ONCE):
        v_BD = objective.bank_v.index_select(0, index_B).float()
        h_BH = v_BD if objective.bank_h is None else objective.bank_h.index_select(0, index_B).float()
        chosen = objective.select(index_B, v_BD, h_BH, objective.sampler.at(step))
        drawn = torch.where(chosen.drawn[:, None] > 0, chosen.pool[chosen.position], index_B[:, None])
        for kind, table in (("spatial", chosen.spatial), ("propagated", chosen.propagated), ("negatives", drawn)):
            _count(tally, kind, kinds, *_pairs(table, index_B))
    schemes = sorted({int(number) for number in kinds.scheme[kinds.label >= 0]})
    return {scheme: {**_shares(tally, scheme), "chance": _chance(kinds, scheme)} for scheme in schemes}


def _pairs(member_BX: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of each anchor with each member of its set: anchors (X,), members (X,)."""
    taken_BX = sets.taken(member_BX, index_B)
    return index_B[:, None].expand_as(member_BX)[taken_BX], member_BX[taken_BX]


def _count(
    tally: dict[tuple[int, str], np.ndarray],
    kind: str,
    kinds: Kinds,
    anchor_X: Tensor,
    member_X: Tensor,
) -> None:
    same_X = kinds.label[anchor_X] == kinds.label[member_X]
    known_X = (kinds.label[member_X] >= 0) & (kinds.scheme[anchor_X] == kinds.scheme[member_X])
    for scheme in torch.unique(kinds.scheme[anchor_X]).tolist():
        mine_X = known_X & (kinds.scheme[anchor_X] == scheme)
        counted = np.array([int((mine_X & same_X).sum()), int(mine_X.sum())])
        tally[scheme, kind] = tally.get((scheme, kind), np.zeros(2, np.int64)) + counted


def _shares(tally: Mapping[tuple[int, str], np.ndarray], scheme: int) -> dict[str, Any]:
    shares = {}
    for kind in KINDS:
        same, pairs = tally.get((scheme, kind), np.zeros(2, np.int64)).tolist()
        shares[kind] = {"same": same / pairs if pairs else None, "pairs": pairs}
    return shares


def _chance(kinds: Kinds, scheme: int) -> dict[str, Any]:
    counts = torch.bincount(kinds.label[(kinds.label >= 0) & (kinds.scheme == scheme)]).double()
    total = counts.sum()
    return {"same": float((counts * (counts - 1)).sum() / (total * (total - 1))), "pairs": int(total * (total - 1))}


def _named(found: Mapping[int, Any], names: list[str]) -> dict[str, Any]:
    return {names[scheme]: shares for scheme, shares in found.items()}


def _objective(settings: Settings, index: PatchIndex, state: dict[str, Any], seed: int) -> SGCL:
    hidden = state["bank_h"].shape[1] if state["bank_h"] is not None else 1
    objective = SGCL(
        settings,
        torch.from_numpy(index.slide_of),
        torch.from_numpy(index.cells),
        dim=state["bank_v"].shape[1],
        hidden_dim=hidden,
        seed=seed,
        device="cpu",
    )
    objective.load_state_dict(state)
    return objective


if __name__ == "__main__":
    from benchmarks.study.table import radii

    print(radii(by_radius(Path(sys.argv[1]), RADII)))
