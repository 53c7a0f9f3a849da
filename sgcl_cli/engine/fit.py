"""The training loop: batches, loss, schedule, stop rule; for pretraining, MIL and fine-tuning."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from sgcl_cli.engine.runtime import to_host
from sgcl_cli.errors import TrainingError

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Position:
    """A position in training.

    :ivar epoch: from 0.
    :ivar within: steps done in this epoch.
    :ivar step: steps done in all.
    """

    epoch: int = 0
    within: int = 0
    step: int = 0


class NotFiniteError(TrainingError):
    """The loss of a step is not finite.

    :ivar position: where that step began.
    """

    def __init__(self, value: float, position: Position) -> None:
        super().__init__(
            f"the loss is {value} at step {position.step} (epoch {position.epoch + 1})",
            "lower --lr, or use --precision fp32",
        )
        self.position = position


class Work(Protocol[Batch]):
    """Callbacks of a training. ``batches`` of an epoch must be reproducible, and start at batch ``start``."""

    def begin_epoch(self, position: Position) -> None: ...

    def batches(self, epoch: int, start: int) -> Iterable[Batch]: ...

    def loss(self, batch: Batch, position: Position) -> Tensor: ...

    def stepped(self, batch: Batch, position: Position) -> None: ...

    def end_epoch(self, position: Position) -> bool: ...


def fit(
    work: Work[Batch],
    optimiser: torch.optim.Optimizer,
    *,
    epochs: int,
    lr: Callable[[int], float],
    start: Position = Position(),
    stop: Callable[[], bool] = lambda: False,
    joint: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Position:
    """Train from ``start`` until the epochs are done, ``end_epoch`` returns True, or ``stop`` returns True after a step.

    :param lr: the learning rate of a step, counted from 0 over the whole run.
    :param joint: this process's loss -> that of all processes that train together; not finite where any is not. Detached.
    :returns: the position reached; it equals ``start`` for nothing done.
    :raises NotFiniteError: the loss is not finite. On a CPU the parameters are those before that step; on a GPU, for which
        nothing waits, it is found when the next step has begun, or at the end of the epoch, and the parameters are spoilt.
    """
    position, losses = start, _Losses()
    while position.epoch < epochs:
        work.begin_epoch(position)
        for batch in work.batches(position.epoch, position.within):
            for group in optimiser.param_groups:
                group["lr"] = lr(position.step)
            optimiser.zero_grad(set_to_none=True)
            loss = work.loss(batch, position)
            losses.add(position, joint(loss.detach()))
            losses.check(unknown=_late(loss))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            position = Position(position.epoch, position.within + 1, position.step + 1)
            work.stepped(batch, position)
            if stop():
                losses.check(unknown=0)
                return position
        losses.check(unknown=0)
        position = Position(position.epoch + 1, 0, position.step)
        if work.end_epoch(position):
            break
    return position


def _late(loss: Tensor) -> int:
    """Steps that may start before a loss is checked: one on a GPU, the same in all processes, and none on a CPU."""
    return 1 if loss.is_cuda else 0


class _Losses:
    """Losses that are being copied to the host, oldest first."""

    def __init__(self) -> None:
        self._sent: deque[tuple[Position, Callable[[], Tensor]]] = deque()

    def add(self, position: Position, loss: Tensor) -> None:
        self._sent.append((position, to_host(loss)))

    def check(self, unknown: int) -> None:
        """Check all but the ``unknown`` latest ones.

        :raises NotFiniteError: one is not finite.
        """
        while len(self._sent) > unknown:
            position, get = self._sent.popleft()
            value = float(get())
            if not math.isfinite(value):
                raise NotFiniteError(value, position)


def cosine(start: float, steps: int) -> Callable[[int], float]:
    """The learning rate ``start (1 + cos(pi step / steps)) / 2``: from ``start`` to 0 (SGDR, Loshchilov and Hutter 2017)."""
    return lambda step: 0.5 * start * (1 + math.cos(math.pi * min(step, steps) / steps))


def in_steps(start: float, milestones: Sequence[int], factor: float = 0.1) -> Callable[[int], float]:
    """The learning rate ``start * factor^m`` after m of the ``milestones``, numbers of steps."""
    return lambda step: start * factor ** sum(step >= milestone for milestone in milestones)
