"""SGCL: the banks, what is read from them, and how they move.

Reading (:meth:`SGCL.select`, :meth:`SGCL.losses`) and changing (:meth:`SGCL.commit`, :meth:`SGCL.refit`,
:meth:`SGCL.adopt`) are apart. Order in a step: losses from the banks as they are; backward; optimiser step; commit of the
forward pass's v and h.

Letters: N patches, B anchors, D size of v, H size of h, 4 quarters, C clusterings, P rows of the pool, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.errors import ArtefactError
from sgcl_cli.method import bank, clusters, negatives, positives, similarity
from sgcl_cli.method.bank import Queue
from sgcl_cli.method.clusters import Clusters
from sgcl_cli.method.lists import Lists, union
from sgcl_cli.method.losses import (
    Diagnostics,
    Losses,
    instance_loss,
    ramp,
    released_spatial_loss,
    spatial_loss,
)
from sgcl_cli.method.negatives import CORNERS
from sgcl_cli.method.positives import Neighbourhood
from sgcl_cli.method.settings import Settings, require_resolved
from sgcl_cli.method.streams import generator

__all__ = ["SGCL", "Diagnostics", "Losses", "Selection", "Settings", "bytes_needed", "ramp"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Selection:
    """Which patches the anchors of a batch are compared with.

    spatial, propagated, positives: P_sp, P_se and their union, one list of patches per anchor, ascending.
    pool (P,): patches on which ranks are taken.    rows (P, D): their bank rows, float32.    similarity (B, P): v . m.
    position, times (B, R): Q as places in the pool by rank, and how often each was drawn.
    """

    spatial: Lists
    propagated: Lists
    positives: Lists
    pool: Tensor
    rows: Tensor
    similarity: Tensor
    position: Tensor
    times: Tensor


class SGCL:
    """The objective over a corpus of N patches.

    :param settings: resolved (:meth:`Settings.resolve`).
    :param slide: int64 (N,), the slide of each patch.
    :param cell: float64 (N, 2), (x, y) in patch widths; lattice cells times the stride's share of the patch.
    :param dim: D.
    :param hidden_dim: H.
    :param seed: of the banks' first rows, of every draw and of the clusterings.
    :param device: where banks and lists live.
    """

    def __init__(
        self,
        settings: Settings,
        slide: Tensor,
        cell: Tensor,
        *,
        dim: int = 128,
        hidden_dim: int = 512,
        seed: int,
        device: torch.device | str,
    ) -> None:
        require_resolved(settings)
        self.settings = settings
        self.seed = seed
        self.device = torch.device(device)
        self.n = slide.numel()
        dtype = _DTYPES[settings.bank_dtype]

        def rows(stream: str, size: int) -> Tensor:
            return bank.random_rows(self.n, size, seed, stream, dtype, self.device)

        self.bank_v: Tensor | None = rows("v", dim) if settings.base == "npid" or settings.spatial else None
        self.bank_h: Tensor | None = rows("h", hidden_dim) if settings.spatial and settings.ranking == "h" else None
        self.bank_corners: list[Tensor] = (
            [rows(f"corner{corner}", dim) for corner in range(CORNERS)] if settings.inner else []
        )
        self.queue: Queue | None = None
        if settings.base == "moco" and settings.queue is not None:
            self.queue = Queue(settings.queue, dim, seed, self.device)
        self.clusters: Clusters | None = None
        self._slide_N = slide.to(self.device)
        self._neighbourhood: Neighbourhood | None = None
        if settings.spatial and settings.expansion:
            self._neighbourhood = Neighbourhood(self._slide_N, cell.to(self.device), settings.radius)

    def losses(
        self,
        index_B: Tensor,
        v_BD: Tensor,
        h_BH: Tensor,
        corners_4BD: Tensor | None = None,
        *,
        epoch: float,
        step: int,
        key_BD: Tensor | None = None,
    ) -> Losses:
        """L = w_self L_self + w(e) w_sp L_sp + w_in L_in from the banks as they are; changes nothing.

        :param index_B: int64, the anchors' patches.
        :param v_BD: unit rows; the gradient goes here.
        :param h_BH: unit rows, used only to rank.
        :param corners_4BD: unit rows of the four quarters, with gradient; needed when the inner weight is above 0.
        :param epoch: real, counted from 0; moves the ramp.
        :param step: global; with the seed it decides all draws.
        :param key_BD: moco: unit keys of the second view; no gradient.
        """
        settings = self.settings
        with torch.autocast(v_BD.device.type, enabled=False):
            v_BD = v_BD.float()
            zero = v_BD.new_zeros(())
            self_term = inner_term = spatial_term = spatial_sum = zero
            spatial_count = zero
            diagnostics = None
            if settings.weight_self > 0:
                self_term = self._self_loss(index_B, v_BD, key_BD, step).mean()
            if settings.spatial:
                spatial_B, counted_B, diagnostics = self._spatial_loss(index_B, v_BD, h_BH.detach().float(), step)
                spatial_sum, spatial_count = spatial_B.where(counted_B, 0).sum(), counted_B.sum().float()
                spatial_term = spatial_sum / spatial_count.clamp_min(1)
            if settings.inner:
                assert corners_4BD is not None, "the inner term needs the four quarters"
                inner_term = self._inner_loss(index_B, corners_4BD.float(), step).mean()
            weight = ramp(epoch, settings.ramp_epochs or 0.0) * settings.weight_spatial
            rest = settings.weight_self * self_term + settings.weight_inner * inner_term
        return Losses(
            total=rest + weight * spatial_term,
            rest=rest,
            self_term=self_term.detach(),
            spatial_term=spatial_term.detach(),
            inner_term=inner_term.detach(),
            spatial_sum=spatial_sum,
            spatial_count=spatial_count,
            spatial_weight=weight,
            diagnostics=diagnostics,
        )

    def _self_loss(self, index_B: Tensor, v_BD: Tensor, key_BD: Tensor | None, step: int) -> Tensor:
        temperature = self.settings.temperature
        if self.queue is not None:
            assert key_BD is not None, "the moco base needs the keys of the second view"
            own_BD = key_BD.detach().float()
            blocks = iter([(self.queue.row_QD, self.queue.index_Q)])
        else:
            assert self.bank_v is not None
            own_BD = self.bank_v.index_select(0, index_B).float()
            draw_K = negatives.uniform_draws(self.seed, step, self.n, self.settings.uniform_negatives or 1)
            blocks = _blocks([self.bank_v], draw_K[None].to(self.device))
        log_own_B = (v_BD * own_BD).sum(1) / temperature
        return instance_loss(log_own_B, similarity.log_sum_shared(v_BD, index_B, blocks, temperature))

    def _inner_loss(self, index_B: Tensor, corners_4BD: Tensor, step: int) -> Tensor:
        temperature = self.settings.temperature
        own_4BD = torch.stack([rows.index_select(0, index_B).float() for rows in self.bank_corners])
        draw_4K = negatives.corner_draws(self.seed, step, self.n, self.settings.corner_negatives).to(self.device)
        log_own_4B = (corners_4BD * own_4BD).sum(2) / temperature
        log_others = similarity.log_sum_shared(
            corners_4BD.flatten(0, 1), index_B.repeat(CORNERS), _blocks(self.bank_corners, draw_4K), temperature
        )
        return instance_loss(log_own_4B, log_others.view_as(log_own_4B)).mean(0)

    def _spatial_loss(
        self, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Diagnostics]:
        """L_sp per anchor, which anchors count, and what to watch."""
        assert self.bank_v is not None
        temperature = self.settings.spatial_temperature
        chosen = self.select(index_B, v_BD.detach(), h_BH, step)
        log_p_B, similar = similarity.log_sum_lists(v_BD, self.bank_v, chosen.positives, temperature)
        log_q_B, dissimilar = similarity.log_sum_ranked(
            v_BD,
            chosen.rows,
            chosen.similarity,
            chosen.position,
            chosen.times,
            temperature,
        )
        length_B = chosen.positives.lengths
        if self.settings.as_released:
            loss_B = released_spatial_loss(log_p_B, log_q_B, (self.n - length_B).to(log_p_B.dtype))
            counted_B = torch.ones_like(length_B, dtype=torch.bool)
        else:
            loss_B, counted_B = spatial_loss(log_p_B, log_q_B), length_B > 0
        far = chosen.propagated
        diagnostics = Diagnostics(
            spatial=chosen.spatial.lengths.float(),
            propagated=far.lengths.float(),
            positive_similarity=similar / length_B.sum(),
            negative_similarity=dissimilar,
            same_slide=(self._slide_N[far.members] == self._slide_N[index_B[far.owner]]).float().mean(),
        )
        return loss_B, counted_B, diagnostics

    @torch.no_grad()
    def select(self, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, step: int) -> Selection:
        """P_sp, P_se, P and Q of every anchor, from the banks as they are."""
        assert self.bank_v is not None
        settings = self.settings
        pool_P = negatives.pool_draws(self.seed, step, self.n, settings.pool).to(self.device)
        row_PD = similarity.rows_of(self.bank_v, pool_P)
        similarity_BP = v_BD @ row_PD.T
        spatial = self.spatial(index_B)
        propagated = Lists.empty(len(index_B), self.device)
        if settings.propagation and self.clusters is not None:
            propagated = self._propagate(index_B, v_BD, spatial, pool_P, row_PD, step)
        both = union([spatial, propagated], self.n)
        ranking_BP = similarity_BP
        if self.bank_h is not None:
            ranking_BP = similarity.pool_similarity(h_BH, self.bank_h, pool_P)
        quantile_Z = negatives.rank_quantiles(self.seed, step, settings, self.n)
        position_BR, times_BR = negatives.semi_hard(ranking_BP, pool_P, index_B, both, quantile_Z, settings.top_share)
        return Selection(spatial, propagated, both, pool_P, row_PD, similarity_BP, position_BR, times_BR)

    def spatial(self, index_B: Tensor) -> Lists:
        """P_sp of the patches ``index_B``, on the objective's device; empty lists without the expansion."""
        if self._neighbourhood is None:
            return Lists.empty(len(index_B), self.device)
        return self._neighbourhood.lists(index_B)

    def _propagate(
        self, index_B: Tensor, v_BD: Tensor, spatial: Lists, pool_P: Tensor, row_PD: Tensor, step: int
    ) -> Lists:
        assert self.bank_v is not None and self.clusters is not None
        settings = self.settings
        similarity_X = similarity.list_similarity(v_BD, self.bank_v, spatial)
        auxiliary = positives.auxiliary_anchors(similarity_X, spatial, settings.auxiliary)
        seeker = positives.seekers(index_B, v_BD, self.bank_v, auxiliary)
        own_U = index_B[seeker.anchor]
        sight = positives.Sight(pool_P, seeker.query @ row_PD.T)
        k = settings.neighbours or 1
        if self.n <= settings.pool:
            near = positives.near_exactly(seeker, own_U, sight, self.clusters, k)
        else:
            phase = float(torch.rand((), generator=generator(self.seed, "thinning", step), dtype=torch.float64))
            near = positives.near_by_threshold(seeker, own_U, sight, self.clusters, k, self.bank_v, phase)
        return positives.by_anchor(near, seeker, len(index_B), self.n)

    @torch.no_grad()
    def commit(
        self,
        index_B: Tensor,
        v_BD: Tensor,
        h_BH: Tensor,
        corners_4BD: Tensor | None = None,
        *,
        momentum: float | None = None,
    ) -> None:
        """row <- normalise((1 - m) row + m new) in every bank; moco: give the keys, which also enter the queue.

        The batch of all ranks, the same on each. An index that comes twice counts where it comes first.

        :param momentum: another m than the settings' bank_momentum; 1 replaces the rows.
        """
        momentum = momentum or self.settings.bank_momentum or 1.0
        if self.bank_v is not None:
            bank.commit(self.bank_v, index_B, v_BD, momentum)
        if self.bank_h is not None:
            bank.commit(self.bank_h, index_B, h_BH, momentum)
        if self.bank_corners:
            assert corners_4BD is not None, "the inner term needs the four quarters"
            for rows, new_BD in zip(self.bank_corners, corners_4BD, strict=True):
                bank.commit(rows, index_B, new_BD, momentum)
        if self.queue is not None:
            self.queue.push(index_B, v_BD)

    @torch.no_grad()
    def refit(self, epoch: int) -> dict[str, Any]:
        """C independent k-means over M, on M's device; replaces the labels.

        :returns: per clustering inertia, iterations, smallest and largest cluster; and the labels' checksum. Empty when
            the objective has no use for clusters.
        """
        if not self.settings.clustered:
            return {}
        assert self.bank_v is not None
        count = self.settings.clusters or 1
        runs = [clusters.fit(self.bank_v, count, self.seed, epoch, run) for run in range(self.settings.clusterings)]
        self.adopt(torch.stack([run.labels for run in runs], 1))
        sizes = [torch.bincount(run.labels, minlength=count) for run in runs]
        return {
            "inertia": [run.inertia for run in runs],
            "iterations": [run.iterations for run in runs],
            "smallest": [int(size.min()) for size in sizes],
            "largest": [int(size.max()) for size in sizes],
            "checksum": self.checksum(),
        }

    def adopt(self, label_NC: Tensor) -> None:
        """Take labels that were fitted elsewhere: int (N, C)."""
        assert label_NC.shape == (self.n, self.settings.clusterings)
        self.clusters = Clusters(label_NC.to(self.device, torch.int32).contiguous(), self.settings.agreement)

    def checksum(self) -> int | None:
        """Of the labels, the same on every device and rank; None before the first fit."""
        return None if self.clusters is None else self.clusters.checksum()

    def state_dict(self) -> dict[str, Any]:
        """Tensors (the banks themselves, not copies) and plain values."""
        return {
            "bank_v": self.bank_v,
            "bank_h": self.bank_h,
            "bank_corners": list(self.bank_corners),
            "labels": None if self.clusters is None else self.clusters.labels,
            "queue_rows": None if self.queue is None else self.queue.row_QD,
            "queue_index": None if self.queue is None else self.queue.index_Q,
            "queue_head": None if self.queue is None else self.queue.head,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy a state into the banks; on any device, of any dtype.

        :raises ArtefactError: when it is of another corpus or other settings.
        """
        mine = self.state_dict()
        for name, value in mine.items():
            if name != "labels" and _shape(value) != _shape(state.get(name)):
                raise ArtefactError(
                    f"the saved objective does not fit: {name} is {_shape(state.get(name))}, not {_shape(value)}",
                    "it was made from other patches or under other settings",
                )
        labels = state.get("labels")
        if labels is not None and tuple(labels.shape) != (self.n, self.settings.clusterings):
            raise ArtefactError(
                f"the saved objective does not fit: labels are {tuple(labels.shape)}",
                "it was made from other patches or under other settings",
            )
        for name, value in mine.items():
            if isinstance(value, Tensor) and name != "labels":
                value.copy_(state[name])
        for rows, saved in zip(self.bank_corners, state["bank_corners"], strict=True):
            rows.copy_(saved)
        if self.queue is not None:
            self.queue.head = int(state["queue_head"])
        self.clusters = None
        if labels is not None:
            self.adopt(labels)


def bytes_needed(settings: Settings, n: int, *, dim: int = 128, hidden_dim: int = 512) -> int:
    """Bytes of banks, labels, inverted lists and neighbour lists for n patches on full tissue; a step's own is apart."""
    width = torch.empty(0, dtype=_DTYPES[settings.bank_dtype]).element_size()
    numbers = dim if settings.base == "npid" or settings.spatial else 0
    numbers += hidden_dim if settings.spatial and settings.ranking == "h" else 0
    numbers += CORNERS * dim if settings.inner else 0
    per_patch = float(numbers * width)
    per_patch += settings.clusterings * 4 + 12 if settings.clustered else 0
    if settings.spatial and settings.expansion:
        per_patch += positives.stored_bytes(settings.radius)
    queue = 4 * dim * (settings.queue or 0) if settings.base == "moco" else 0
    return int(n * per_patch) + queue


def _blocks(banks: list[Tensor], index_XK: Tensor, width: int = 8_192) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, index_K in zip(banks, index_XK, strict=True):
        for index in torch.split(index_K, width):
            yield rows.index_select(0, index).float(), index


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return [_shape(item) for item in value] if isinstance(value, list) else type(value).__name__
