"""Several processes, one objective: identities when alone, so that nobody has to ask whether there are others.

Every rank holds the same banks and labels. A rank computes the losses of its own anchors; the banks take the gathered batch of
all; clusters are fitted on rank 0 and broadcast. Draws come from (seed, step) and are the same everywhere, so two ranks are one
process on the joined batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sgcl_cli.errors import TrainingError
from sgcl_cli.method.sgcl import SGCL, Losses


@dataclass(frozen=True)
class Ranks:
    """This process among all: ``rank`` of ``count``. The default is a process that is alone."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of the process group that was started, if one was."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def gather(self, part: Tensor, dim: int = 0) -> Tensor:
        """The equally shaped parts of all ranks, joined along ``dim`` in order of rank; no gradient."""
        if self.count == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.count)]
        dist.all_gather(parts, part.detach().contiguous())
        return torch.cat(parts, dim)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, in place; shape and dtype must agree."""
        if self.count > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, as a new tensor."""
        if self.count == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total


def joint_total(losses: Losses, ranks: Ranks) -> Tensor:
    """This rank's L such that the mean over ranks, and of their gradients, is that of the joined batch.

    L_sp is divided by the number of anchors with positives over all ranks; the other terms are means over equal shares.
    """
    return losses.total_for(ranks.sum(losses.spatial_count) / ranks.count)


def joint_commit(
    objective: SGCL, ranks: Ranks, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, corners_4BD: Tensor | None
) -> None:
    """Move every rank's banks by the batch of all ranks."""
    corners = None if corners_4BD is None else ranks.gather(corners_4BD.detach(), dim=1)
    objective.commit(ranks.gather(index_B), ranks.gather(v_BD.detach()), ranks.gather(h_BH.detach()), corners)


def joint_refit(objective: SGCL, ranks: Ranks, epoch: int) -> dict[str, Any]:
    """Fit the clusters on rank 0, give everyone its labels, and check that all have the same.

    :raises TrainingError: the labels differ between ranks.
    """
    report = objective.refit(epoch) if ranks.rank == 0 else {}
    if ranks.count > 1 and objective.settings.clustered:
        shape = (objective.n, objective.settings.clusterings)
        mine = objective.clusters.labels if ranks.rank == 0 and objective.clusters is not None else None
        labels = mine if mine is not None else torch.zeros(shape, dtype=torch.int32, device=objective.device)
        objective.adopt(ranks.broadcast(labels.clone()))
        seen = ranks.gather(torch.tensor([objective.checksum() or 0], dtype=torch.int64, device=objective.device))
        if len(set(seen.tolist())) > 1:
            raise TrainingError(
                f"cluster labels differ between ranks: checksums {seen.tolist()}", "check the network between the nodes"
            )
    return report
