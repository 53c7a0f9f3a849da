"""What pretraining asks of an objective: which views it is computed from, its losses, and how what it remembers moves.

Order in a step: losses from what is remembered as it is; backward; optimiser step; commit of the forward pass's embeddings.
Losses and commit wait for no device.

Letters: N patches, B anchors, D size of v, H size of h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgcl_cli.method.settings import Settings


class Embedded(NamedTuple):
    """Unit rows in float32: v (B, D) and h (B, H) of the global views; ``corners`` (4, B, D), v of the quarters, and
    ``second`` (B, D), v of the second global views, where they are wanted."""

    v: Tensor
    h: Tensor
    corners: Tensor | None = None
    second: Tensor | None = None

    def detached(self) -> Embedded:
        """The same numbers without their gradient."""
        corners, second = (None if part is None else part.detach() for part in (self.corners, self.second))
        return Embedded(self.v.detach(), self.h.detach(), corners, second)


@dataclass(frozen=True)
class WantedViews:
    """What an objective is computed from, besides the global view of each patch.

    corners: whether the four quarters are embedded.    second: whether a second global view is.
    key_momentum: of networks that follow the trained ones and embed the second view and the quarters as keys, without
    gradient; None where the trained networks embed the second view themselves.
    """

    corners: bool = False
    second: bool = False
    key_momentum: float | None = None


@dataclass(frozen=True)
class Term:
    """One term of an objective over a batch, before its weight.

    sum: a scalar: the mean over the batch where ``count`` is None, without gradient; else the sum over the anchors that
    count, with gradient.    count: how many count, a scalar.    weight: of a term that has a count.
    """

    sum: Tensor
    count: Tensor | None = None
    weight: float = 1.0

    @property
    def value(self) -> Tensor:
        """The mean, without gradient; 0 where no anchor counts."""
        return self.sum.detach() if self.count is None else self.sum.detach() / self.count.clamp_min(1)


@dataclass(frozen=True)
class Losses:
    """The total of one batch, in its terms.

    means: with gradient, the total of the terms that are means over the batch, each with its weight.
    terms: all terms by name, in the order in which they are shown.
    watch: finds what a person watches besides, by name: scalars, or one number an anchor (B,).
    """

    means: Tensor
    terms: Mapping[str, Term]
    watch: Callable[[], dict[str, Tensor]] = field(default=dict)

    @cached_property
    def watched(self) -> dict[str, Tensor]:
        """What a person watches besides the terms, found when it is asked for; detached."""
        return self.watch()

    @property
    def total(self) -> Tensor:
        """The total, with gradient."""
        return self.total_for(lambda count: count)

    def total_for(self, share: Callable[[Tensor], Tensor]) -> Tensor:
        """The total in which the sum of each term that has a count is divided by ``share(count)``.

        For ranks whose gradients are averaged: the count over all of them divided by their number.
        """
        total = self.means
        for term in self.terms.values():
            if term.count is not None:
                count = share(term.count)
                count = count.clamp_min(torch.finfo(count.dtype).tiny)
                total = torch.addcdiv(total, term.sum, count, value=term.weight)
        return total


class Objective(ABC):
    """An objective over a corpus of N patches. It has no learnable parameters.

    :param settings: resolved.
    :param slide: int64 (N,), the slide of each patch.
    :param cell: float64 (N, 2), (x, y) in patch widths; lattice cells times the stride's share of the patch.
    :param dim: D.
    :param hidden_dim: H.
    :param seed: of all that is drawn.
    :param device: where it computes, and keeps what it remembers.

    ``candidates``: of each term that tells a patch's own entry from others, among how many, that entry included: at
    chance the term is the logarithm of it.    ``remembers``: whether anything is kept of the patches from step to step.
    ``refits``: whether something is fitted anew at the start of every epoch from the second on.
    """

    candidates: Mapping[str, int] = {}
    remembers = False
    refits = False

    @abstractmethod
    def __init__(
        self,
        settings: Settings,
        slide: Tensor,
        cell: Tensor,
        *,
        dim: int,
        hidden_dim: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.settings, self.n, self.seed, self.device = settings, slide.numel(), seed, torch.device(device)

    @classmethod
    @abstractmethod
    def wanted_views(cls, settings: Settings) -> WantedViews:
        """What it is computed from."""

    @classmethod
    def bytes_needed(cls, settings: Settings, n: int, *, dim: int, hidden_dim: int) -> int:
        """Bytes of what it remembers of n patches; a step's own is apart."""
        return 0

    @abstractmethod
    def losses(
        self, index_B: Tensor, query: Embedded, key: Embedded | None = None, *, epoch: float, step: int
    ) -> Losses:
        """The losses of a batch from what is remembered as it is; changes nothing.

        :param index_B: int64, the anchors' patches.
        :param query: by the trained networks, with gradient.
        :param key: by the networks that follow, where it has them.
        :param epoch: real, counted from 0.
        :param step: global; with the seed it decides all draws.
        """

    def schedule(self, epoch: float) -> dict[str, float]:
        """What changes by the epoch alone, for the log, by name."""
        return {}

    @property
    def banks(self) -> dict[str, Tensor]:
        """Banks (N, D) or (N, H) of unit rows by name, whose effective rank is watched."""
        return {}

    def commit(self, index_B: Tensor, new: Embedded, *, momentum: float | None = None) -> None:
        """Remember the embeddings of a batch: the keys where networks follow.

        The batch of all ranks, the same on each. An index that comes twice counts where it comes first.

        :param momentum: share of the new, in place of the settings'.
        """
        assert not self.remembers, "an objective that remembers something takes the batch"

    def refit(self, epoch: int) -> dict[str, Any]:
        """Fit anew what is fitted to all patches; on one rank.

        :returns: what is to be logged of it.
        """
        return {}

    def fitted(self) -> Tensor:
        """What ``refit`` found; before that, something of the same shape and dtype."""
        raise NotImplementedError("only an objective that refits has something fitted")

    def adopt(self, found: Tensor) -> None:
        """Take what was fitted elsewhere."""
        raise NotImplementedError("only an objective that refits has something fitted")

    def checksum(self) -> int | None:
        """Of what was fitted, the same on every device and rank; None before the first fit."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What is remembered: tensors (not copies), lists of them, and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state; on any device, of any dtype.

        :raises ArtefactError: when it is of another corpus or other settings.
        """
        assert not self.state_dict(), "an objective that remembers something takes it up"
