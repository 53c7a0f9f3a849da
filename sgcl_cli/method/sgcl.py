"""SGCL: the banks, what is read from them, and how they move.

Reading (:meth:`SGCL.select`, :meth:`SGCL.losses`) and changing (:meth:`SGCL.commit`, :meth:`SGCL.refit`,
:meth:`SGCL.adopt`) are apart. Order in a step: losses from the banks as they are; backward; optimiser step; commit of the
forward pass's v and h. Losses and commit wait for no device: what their shapes depend on is known since the neighbours were
listed or the clusters were fitted.

Letters: N patches, B anchors, D size of v, H size of h, 4 quarters, C clusterings, P rows of the pool, Z drawn ranks, X places
of a table of sets (``sets``), A an anchor and its auxiliary anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.errors import ArtefactError
from sgcl_cli.method import bank, clusters, negatives, positives, sets, similarity
from sgcl_cli.method.bank import Queue
from sgcl_cli.method.clusters import Clusters
from sgcl_cli.method.losses import Diagnostics, Losses, contrast, ramp, released_contrast
from sgcl_cli.method.negatives import CORNERS, Draws, Sampler
from sgcl_cli.method.positives import Neighbourhood
from sgcl_cli.method.settings import Settings, require_resolved

__all__ = ["SGCL", "Diagnostics", "Losses", "Selection", "Settings", "bytes_needed", "ramp"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Selection:
    """Which patches the anchors of a batch are compared with.

    index (B,): the anchors' patches.    spatial, positives: P_sp, and its union with P_se, int64 (B, X) as ``sets`` has them.
    near: the look-alikes of an anchor and of its auxiliary anchors, int64 (B, A, X); None where nothing is propagated.
    pool (P,): patches on which ranks are taken.    rows (P, D): their bank rows, float32.    similarity (B, P): v . m.
    position (B, Z): Q as places in the pool; equal for equal ranks.
    drawn (B,): float32, 0 where nothing was left to draw from, else 1.
    """

    index: Tensor
    spatial: Tensor
    positives: Tensor
    near: Tensor | None
    pool: Tensor
    rows: Tensor
    similarity: Tensor
    position: Tensor
    drawn: Tensor

    @property
    def propagated(self) -> Tensor:
        """P_se, as ``sets`` has it."""
        return sets.empty(self.index) if self.near is None else sets.distinct(self.near.flatten(1), self.index)


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
        self.bank_corners: Tensor | None = None
        if settings.inner:
            self.bank_corners = torch.empty(CORNERS, self.n, dim, dtype=dtype, device=self.device)
            for corner, rows_ND in enumerate(self.bank_corners):
                rows_ND.copy_(rows(f"corner{corner}", dim))
        self.queue: Queue | None = None
        if settings.base == "moco" and settings.queue is not None:
            self.queue = Queue(settings.queue, dim, seed, self.device)
        self.clusters: Clusters | None = None
        self._slide_N = slide.to(self.device)
        self._neighbourhood: Neighbourhood | None = None
        if settings.spatial and settings.expansion:
            self._neighbourhood = Neighbourhood(self._slide_N, cell.to(self.device), settings.radius)
        self.sampler = Sampler(settings, self.n, seed, self.device)
        self._zero = torch.zeros((), device=self.device)
        start_4 = torch.arange(0, CORNERS * self.n, self.n, device=self.device)
        self._corner_start_4K = start_4[:, None].expand(-1, settings.corner_negatives).reshape(-1)

    @torch.no_grad()
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
        settings, draws, slopes, watch = self.settings, self.sampler.at(step), [], None
        self_term = inner_term = spatial_sum = spatial_count = self._zero
        with torch.autocast(v_BD.device.type, enabled=False):
            if settings.weight_self > 0:
                self_term, slope_BD = self._self_loss(index_B, v_BD.float(), key_BD, draws)
                slopes.append((v_BD, slope_BD))
            if settings.inner:
                assert corners_4BD is not None, "the inner term needs the four quarters"
                inner_term, slope_4BD = self._inner_loss(index_B, corners_4BD.float(), draws)
                slopes.append((corners_4BD, slope_4BD))
            if settings.spatial:
                spatial_sum, spatial_count, watch = self._spatial_loss(index_B, v_BD, h_BH.float(), draws)
            rest = torch.add(self_term * settings.weight_self, inner_term, alpha=settings.weight_inner)
        return Losses(
            rest=similarity.with_slopes(rest, *slopes),
            self_term=self_term,
            inner_term=inner_term,
            spatial_sum=spatial_sum,
            spatial_count=spatial_count,
            spatial_weight=ramp(epoch, settings.ramp_epochs or 0.0) * settings.weight_spatial,
            watch=watch,
        )

    def _self_loss(self, index_B: Tensor, v_BD: Tensor, key_BD: Tensor | None, draws: Draws) -> tuple[Tensor, Tensor]:
        """L_self over the batch, and the slope of w_self L_self in v (B, D)."""
        if self.queue is not None:
            assert key_BD is not None, "the moco base needs the keys of the second view"
            own_BD, row_KD, index_K = key_BD.float(), self.queue.row_QD, self.queue.index_Q
        else:
            assert self.bank_v is not None
            own_BD, index_K = similarity.rows_of(self.bank_v, index_B), draws.uniform
            row_KD = similarity.rows_of(self.bank_v, index_K)
        return self._instance(v_BD, own_BD, index_B, row_KD, index_K, self.settings.weight_self)

    def _inner_loss(self, index_B: Tensor, corners_4BD: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """L_in over the batch, and the slope of w_in L_in in the quarters (4, B, D)."""
        assert self.bank_corners is not None
        own_4BD = self.bank_corners.index_select(1, index_B).float()
        index_K = draws.corners.view(-1)
        row_KD = similarity.rows_of(self.bank_corners.flatten(0, 1), index_K + self._corner_start_4K)
        return self._instance(corners_4BD, own_4BD, index_B, row_KD, index_K, self.settings.weight_inner)

    def _instance(
        self, v_YBD: Tensor, own_YBD: Tensor, index_B: Tensor, row_KD: Tensor, index_K: Tensor, weight: float
    ) -> tuple[Tensor, Tensor]:
        """The mean instance loss of rows v against their own rows, and the slope of ``weight`` times it."""
        query_YBD = v_YBD / self.settings.temperature
        log_others_YB, slope_YBD = similarity.log_sum_shared(query_YBD, index_B, row_KD, index_K)
        log_own_YB = (query_YBD * own_YBD).sum(-1)
        loss_YB, share_YB = contrast(log_own_YB, log_others_YB)
        share_YB = share_YB.mul_(weight / (self.settings.temperature * share_YB.numel()))
        return loss_YB.mean(), slope_YBD.sub_(own_YBD).mul_(share_YB[..., None])

    def _spatial_loss(
        self, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor, Callable[[], Diagnostics]]:
        """The sum of L_sp over the anchors that count, with gradient; how many count; and what to watch."""
        assert self.bank_v is not None
        temperature, rows_BD = self.settings.spatial_temperature, v_BD.float()
        chosen = self.select(index_B, rows_BD, h_BH, draws)
        log_p_B, slope_p_BD, positive_BX = similarity.log_sum_sets(
            rows_BD, self.bank_v, chosen.positives, index_B, temperature
        )
        log_q_B, slope_q_BD, negative_BZ = similarity.log_sum_drawn(
            chosen.similarity, chosen.rows, chosen.position, temperature
        )
        log_q_B = log_q_B.masked_fill_(chosen.drawn == 0, similarity.NOTHING)
        length_B = sets.sizes(chosen.positives, index_B)
        if self.settings.as_released:
            counted_B = torch.ones_like(length_B)
            loss_B, share_B = released_contrast(log_p_B, log_q_B, self.n - length_B)
            slope_BD = slope_p_BD.neg_()
        else:
            counted_B = length_B.sign()
            loss_B, share_B = contrast(log_p_B, log_q_B)
            slope_BD = slope_q_BD.sub_(slope_p_BD)
        slope_BD = slope_BD.mul_(share_B.mul_(counted_B / temperature)[:, None])
        spatial_sum = similarity.with_slopes(torch.dot(loss_B, counted_B), (v_BD, slope_BD))
        watch = partial(self._diagnostics, chosen, length_B, positive_BX, negative_BZ)
        return spatial_sum, counted_B.sum(), watch

    @torch.no_grad()
    def _diagnostics(
        self, chosen: Selection, length_B: Tensor, positive_BX: Tensor, negative_BZ: Tensor
    ) -> Diagnostics:
        """What to watch; the similarities come as v . m / T."""
        temperature, index_B = self.settings.spatial_temperature, chosen.index
        similar = positive_BX.masked_fill(positive_BX < similarity.NOTHING / 2, 0).sum() * temperature
        dissimilar = torch.dot(negative_BZ.mean(1), chosen.drawn) * temperature
        propagated_BX = chosen.propagated
        far_BX = sets.taken(propagated_BX, index_B)
        mates_BX = (self._slide_N[propagated_BX] == self._slide_N[index_B][:, None]) & far_BX
        propagated_B = far_BX.sum(1, dtype=torch.float32)
        return Diagnostics(
            spatial=sets.sizes(chosen.spatial, index_B),
            propagated=propagated_B,
            positive_similarity=similar / length_B.sum(),
            negative_similarity=dissimilar / chosen.drawn.sum(),
            same_slide=mates_BX.sum() / propagated_B.sum(),
        )

    @torch.no_grad()
    def select(self, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, draws: Draws) -> Selection:
        """P_sp, P_se, P and Q of every anchor, from the banks as they are.

        :param draws: of a step, from ``sampler``.
        """
        assert self.bank_v is not None
        settings, pool_P = self.settings, draws.pool
        whole = len(pool_P) == self.n
        row_PD = self.bank_v.float() if whole else similarity.rows_of(self.bank_v, pool_P)
        spatial_BX = self.spatial(index_B)
        near_BAX, positive_BX = None, spatial_BX
        if settings.propagation and self.clusters is not None:
            query = positives.queries(index_B, v_BD, self.bank_v, spatial_BX, settings.auxiliary)
            similarity_BAP = query.row @ row_PD.T
            similarity_BP, k = similarity_BAP[:, 0], settings.neighbours or 1
            if whole:
                near_BAX = positives.near_exactly(query, index_B, similarity_BAP, self.clusters, k)
            else:
                near_BAX = positives.near_by_threshold(
                    query, index_B, similarity_BAP, pool_P, self.clusters, k, self.bank_v, draws.phase
                )
            positive_BX = sets.distinct(torch.cat([spatial_BX, near_BAX.flatten(1)], 1), index_B)
        else:
            similarity_BP = v_BD @ row_PD.T
        ranking_BP = similarity_BP
        if self.bank_h is not None:
            ranking_BP = h_BH @ (self.bank_h.float() if whole else similarity.rows_of(self.bank_h, pool_P)).T
        position_BZ, drawn_B = negatives.semi_hard(
            ranking_BP, pool_P, positive_BX, draws.quantile, settings.top_share or 1.0, whole=whole
        )
        return Selection(
            index=index_B,
            spatial=spatial_BX,
            positives=positive_BX,
            near=near_BAX,
            pool=pool_P,
            rows=row_PD,
            similarity=similarity_BP,
            position=position_BZ,
            drawn=drawn_B,
        )

    def spatial(self, index_B: Tensor) -> Tensor:
        """P_sp of the patches ``index_B``, ascending, on the objective's device; no entries without the expansion."""
        return sets.empty(index_B) if self._neighbourhood is None else self._neighbourhood.of(index_B)

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
        first_B = bank.first_of_each(index_B)
        for rows, new in ((self.bank_v, v_BD), (self.bank_h, h_BH), (self.bank_corners, corners_4BD)):
            if rows is not None:
                assert new is not None, "the inner term needs the four quarters"
                bank.commit(rows, index_B, first_B, new, momentum)
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
            "bank_corners": [] if self.bank_corners is None else list(self.bank_corners),
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
        if self.bank_corners is not None:
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


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return [_shape(item) for item in value] if isinstance(value, list) else type(value).__name__
