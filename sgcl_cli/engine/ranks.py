"""Collective operations over the ranks of a run; identities for a single process, so callers need not distinguish.

Every rank holds the same banks and labels. A rank computes the losses of its own anchors; banks are updated with the gathered
batch of all ranks; clusters are fitted on rank 0 and broadcast. Draws depend on (seed, step) and are the same on all ranks, so
several ranks give the result of one process on the joined batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sgcl_cli.artefacts.lock import alone
from sgcl_cli.config import whole_number
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ConfigError, ElsewhereError, Interrupted, SgclError, TrainingError
from sgcl_cli.method.objective import Embedded, Losses, Objective

_PATIENCE = timedelta(hours=2)  # rank 0 fits the clusters while the others wait

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; the default is a single process.

    :ivar rank: its number, from 0.
    :ivar count: processes of the run.
    :ivar local_rank: its number on this machine.
    :ivar local_count: processes of the run on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of the process group that was started, if one was."""
        if dist.is_available() and dist.is_initialized():
            local = (
                int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
            )
            return cls(dist.get_rank(), dist.get_world_size(), *local)
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    @property
    def own_device(self) -> int | None:
        """The number of this process's GPU on its machine; None for a single process."""
        return self.local_rank if self.count > 1 else None

    def describe(self, batch: int) -> str:
        """How many processes share a batch, in words; empty for a single process."""
        return f", {self.count} processes, {batch // self.count} patches of a batch each" if self.count > 1 else ""

    def share(self, batch: int) -> slice:
        """This rank's part of a batch of all ranks: equal parts in order of rank.

        :raises ConfigError: the batch cannot be shared equally.
        """
        if batch % self.count:
            raise ConfigError(
                f"--batch {batch} is the batch of all processes and cannot be shared equally by {self.count}",
                f"use --batch {max(1, batch // self.count) * self.count}",
            )
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

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

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all ranks, on the device; NaN where any is NaN."""
        return self.sum(value) / self.count if self.count > 1 else value

    def largest(self, value: int) -> int:
        """The largest over all ranks, by the CPU."""
        if self.count == 1:
            return value
        return int(self.gather(torch.tensor([value])).max())

    def of_first(self, value: T) -> T:
        """Rank 0's value of a plain object."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def all_of(self, value: T) -> list[T]:
        """The plain objects of all ranks, in order of rank."""
        if self.count == 1:
            return [value]
        box: list[Any] = [None] * self.count
        dist.all_gather_object(box, value)
        return box

    def agree(self, error: BaseException | None = None) -> None:
        """Synchronise the ranks, and raise on all if one has failed.

        :raises BaseException: ``error``, on the lowest rank that has one. :raises ElsewhereError: on the others, if any has one.
        """
        failed = self.gather(torch.tensor([int(error is not None)])).tolist()
        if error is not None and failed.index(1) == self.rank:
            raise error
        if any(failed):
            raise ElsewhereError from error

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A context without communication that ends with ``agree``."""
        try:
            yield
        except BaseException as error:
            self.agree(error)
            raise
        self.agree()


@contextlib.contextmanager
def sole_writer(out: Path, ranks: Ranks = Ranks(), *, dry_run: bool = False) -> Iterator[None]:
    """Lock an output folder on rank 0 for the ``with`` block, see ``lock.alone``; a dry run takes no lock.

    :raises ArtefactError: another run writes there; ``ElsewhereError`` on the other ranks.
    """
    with contextlib.ExitStack() as opened:
        with ranks.together():
            if ranks.first and not dry_run:
                opened.enter_context(alone(out))
        yield


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the process group of torchrun, if there is one, and leave it at the end.

    Tensors on a GPU are sent by NCCL, those on the CPU by gloo. If another rank is lost, ``ElsewhereError`` is raised.

    :param device: as in --device; the GPU is chosen by the local rank.
    :raises ConfigError: the variables of the launcher are incomplete.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" or "MASTER_ADDR" not in os.environ:
        yield Ranks()
        return
    _check_launcher()
    with_gpu = torch.cuda.is_available() and not device.startswith("cpu")
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpu else "gloo", timeout=_PATIENCE)
        try:
            yield Ranks.current()
        except (SgclError, Interrupted):  # all ranks end; after any other error this one must not wait for the rest
            dist.destroy_process_group()
            raise
        dist.destroy_process_group()
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _BROKEN):
            raise
        raise ElsewhereError(f"the connection to another process is lost: {error}") from error


def _check_launcher() -> None:
    """Refuse variables of a launcher that are incomplete.

    :raises ConfigError: one is missing or no number.
    """
    names = ("WORLD_SIZE", "RANK", "MASTER_PORT")
    wrong = [name for name in names if whole_number(os.environ.get(name, ""), 0, 2**31 - 1) is None]
    if wrong:
        raise ConfigError(
            f"WORLD_SIZE and MASTER_ADDR ask for several processes, but {wrong[0]} is {os.environ.get(wrong[0], 'not set')}",
            "start the command by torchrun, or unset WORLD_SIZE for a single process",
        )


_BROKEN = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")


def distributed(networks: nn.Module, ranks: Ranks, runtime: Runtime) -> nn.Module:
    """A wrapper of ``networks`` that averages gradients over the ranks; the running statistics of batch norm are rank 0's."""
    if ranks.count == 1:
        return networks
    devices = [runtime.device] if runtime.on_cuda else None
    return DistributedDataParallel(networks, device_ids=devices, gradient_as_bucket_view=True)


def synchronised(networks: nn.Module, ranks: Ranks, runtime: Runtime) -> None:
    """Convert batch norm to statistics over the batches of all ranks, in place; parameter names do not change.

    :raises ConfigError: not on CUDA; torch has no such layer for the CPU.
    """
    if not runtime.on_cuda:
        raise ConfigError("--sync-bn works on CUDA only", "leave it out on the CPU, or use --device cuda")
    if ranks.count > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(networks)  # type: ignore[no-untyped-call]


def joint_terms(losses: Losses, ranks: Ranks) -> dict[str, Tensor]:
    """The total and the terms over the batch of all ranks, in their order, as scalars on the device."""
    terms = losses.terms
    means = [losses.means.detach(), *(term.sum for term in terms.values() if term.count is None)]
    counted = [part for term in terms.values() if term.count is not None for part in (term.sum.detach(), term.count)]
    parts = torch.stack(means) / ranks.count
    joined = iter(ranks.sum(torch.cat([parts, torch.stack(counted)]) if counted else parts).unbind())
    total = next(joined)
    found = {name: next(joined) for name, term in terms.items() if term.count is None}
    for name, term in terms.items():
        if term.count is not None:
            found[name] = next(joined) / next(joined).clamp_min(1)
            total = total + term.weight * found[name]
    return {"total": total, **{name: found[name] for name in terms}}


def joint_means(values: Tensor, ranks: Ranks) -> Tensor:
    """The means over the ranks of each value (X,), ignoring NaN; NaN if all are. On the device."""
    known = ~values.isnan()
    both = ranks.sum(torch.stack([values.where(known, 0.0), known.to(values.dtype)]))
    mean: Tensor = both[0] / both[1]
    return mean


def joint_total(losses: Losses, ranks: Ranks) -> Tensor:
    """This rank's total such that the mean over ranks, and of their gradients, is that of the joined batch.

    A term that has a count is divided by the count over all ranks; the other terms are means over equal shares.
    """
    return losses.total_for(lambda count: ranks.sum(count) / ranks.count)


def joint_commit(
    objective: Objective, ranks: Ranks, index_B: Tensor, new: Embedded, *, momentum: float | None = None
) -> None:
    """Update every rank's objective with the batch of all ranks."""
    corners, second = (None if part is None else part.detach() for part in (new.corners, new.second))
    joined = Embedded(
        ranks.gather(new.v.detach()),
        ranks.gather(new.h.detach()),
        None if corners is None else ranks.gather(corners, dim=1),
        None if second is None else ranks.gather(second),
    )
    objective.commit(ranks.gather(index_B), joined, momentum=momentum)


def joint_refit(objective: Objective, ranks: Ranks, epoch: int) -> dict[str, Any]:
    """Fit on rank 0, broadcast the result, and check that all ranks have the same.

    :raises TrainingError: the results differ.
    """
    report = objective.refit(epoch) if ranks.rank == 0 else {}
    if ranks.count > 1 and objective.refits:
        objective.adopt(ranks.broadcast(objective.fitted().clone()))
        seen = ranks.gather(torch.tensor([objective.checksum() or 0], dtype=torch.int64, device=objective.device))
        if len(set(seen.tolist())) > 1:
            raise TrainingError(
                f"cluster labels differ between ranks: checksums {seen.tolist()}", "check the network between the nodes"
            )
    return report
