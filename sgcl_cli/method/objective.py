"""The interface of an objective: the views that it needs, its losses, and how its memory is updated.

Order in a step: losses from the current memory; backward; optimiser step; commit of the embeddings of the forward pass.
Losses and commit do not synchronise with the device.

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
    """Embeddings of a batch, unit rows in float32.

    :ivar v: (B, D), of the global views, projected.
    :ivar h: (B, H), of the global views, from the encoder.
    :ivar corners: (4, B, D), v of the quarters; None if not needed.
    :ivar second: (B, D), v of the second global views; None if not needed.
    """

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
    """The views that an objective needs besides the global view of each patch.

    :ivar corners: whether the four quarters are embedded.
    :ivar second: whether a second global view is embedded.
    :ivar key_momentum: momentum of the key networks, which embed the second view and the quarters without gradient; None if
        the trained networks embed the second view themselves.
    """

    corners: bool = False
    second: bool = False
    key_momentum: float | None = None


@dataclass(frozen=True)
class Term:
    """One term of an objective over a batch, not weighted.

    :ivar sum: a scalar: if ``count`` is None the mean over the batch, without gradient; else the sum over the anchors that
        contribute, with gradient.
    :ivar count: the number of anchors that contribute, a scalar.
    :ivar weight: of a term that has a count.
    """

    sum: Tensor
    count: Tensor | None = None
    weight: float = 1.0

    @property
    def value(self) -> Tensor:
        """The mean, without gradient; 0 if no anchor contributes."""
        return self.sum.detach() if self.count is None else self.sum.detach() / self.count.clamp_min(1)


@dataclass(frozen=True)
class Losses:
    """The losses of one batch.

    :ivar means: with gradient, the weighted sum of the terms that are means over the batch.
    :ivar terms: all terms by name, in the order in which they are shown.
    :ivar watch: computes further numbers to be logged, by name: scalars, or one number per anchor (B,).
    """

    means: Tensor
    terms: Mapping[str, Term]
    watch: Callable[[], dict[str, Tensor]] = field(default=dict)

    @cached_property
    def watched(self) -> dict[str, Tensor]:
        """The further numbers to be logged, computed on first access; detached."""
        return self.watch()

    @property
    def total(self) -> Tensor:
        """The total, with gradient."""
        return self.total_for(lambda count: count)

    def total_for(self, share: Callable[[Tensor], Tensor]) -> Tensor:
        """The total, with the sum of each term that has a count divided by ``share(count)``.

        Where the gradients of several ranks are averaged, that is the count over all ranks divided by their number.
        """
        total = self.means
        for term in self.terms.values():
            if term.count is not None:
                count = share(term.count)
                count = count.clamp_min(torch.finfo(count.dtype).tiny)
                total = torch.addcdiv(total, term.sum, count, value=term.weight)
        return total


class Objective(ABC):
    """An objective over a corpus of N patches, without learnable parameters.

    :param settings: resolved.
    :param slide: int64 (N,), the slide of each patch.
    :param cell: float64 (N, 2), (x, y) in patch widths; lattice cells times the stride's share of the patch.
    :param dim: D.
    :param hidden_dim: H.
    :param seed: of all random draws.
    :param device: of the computation and of the memory.

    :cvar candidates: for each term that identifies a patch's own entry among others, the number of entries; at chance the
        term is the logarithm of it.
    :cvar remembers: whether it has a memory that is updated at every step.
    :cvar refits: whether something is fitted again at the start of every epoch from the second on.
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
        """The views that it needs."""

    @classmethod
    def bytes_needed(cls, settings: Settings, n: int, *, dim: int, hidden_dim: int) -> int:
        """Bytes of its memory for n patches, without the temporary memory of a step."""
        return 0

    @abstractmethod
    def losses(
        self, index_B: Tensor, query: Embedded, key: Embedded | None = None, *, epoch: float, step: int
    ) -> Losses:
        """The losses of a batch from the current memory, which is not changed.

        :param index_B: int64, the anchors' patches.
        :param query: embeddings by the trained networks, with gradient.
        :param key: embeddings by the key networks, if there are any.
        :param epoch: a real number, from 0.
        :param step: over the whole run; with the seed it determines all draws.
        """

    def schedule(self, epoch: float) -> dict[str, float]:
        """Quantities that depend on the epoch alone, by name, for the log."""
        return {}

    @property
    def banks(self) -> dict[str, Tensor]:
        """Banks (N, D) or (N, H) of unit rows by name, whose effective rank is logged."""
        return {}

    def commit(self, index_B: Tensor, new: Embedded, *, momentum: float | None = None) -> None:
        """Update the memory with the embeddings of a batch: with the keys if there are key networks.

        The batch is that of all ranks, the same on each. Of an index that occurs twice the first occurrence counts.

        :param momentum: share of the new rows, instead of the one in the settings.
        """
        assert not self.remembers, "an objective with a memory overrides commit"

    def refit(self, epoch: int) -> dict[str, Any]:
        """Fit again what is fitted to all patches; called on one rank.

        :returns: numbers for the log.
        """
        return {}

    def fitted(self) -> Tensor:
        """The result of ``refit``; before the first, a tensor of the same shape and dtype."""
        raise NotImplementedError("only an objective that refits has a fitted result")

    def adopt(self, found: Tensor) -> None:
        """Use a result that another rank has fitted."""
        raise NotImplementedError("only an objective that refits has a fitted result")

    def checksum(self) -> int | None:
        """Checksum of the fitted result, the same on every device and rank; None before the first fit."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """The memory: tensors (not copies), lists of them, and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, which may be on any device and of any dtype.

        :raises ArtefactError: it belongs to another corpus or other settings.
        """
        assert not self.state_dict(), "an objective with a memory overrides load_state_dict"
