"""SGCL: the spatial and the inner term on top of a base, with their memory banks and clusters.

:meth:`SGCL.select` and :meth:`SGCL.losses` only read the banks; :meth:`SGCL.commit`, :meth:`SGCL.refit` and
:meth:`SGCL.adopt` change them. The shapes of a step are fixed once the neighbours are listed and the clusters fitted.

Letters: N patches, B anchors, D size of v, H size of h, 4 quarters, C clusterings, P rows of the pool, Z drawn ranks, X places
of a table of sets (``sets``), A an anchor and its auxiliary anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.errors import ArtefactError
from sgcl_cli.method import bank, clusters, negatives, positives, sets, similarity
from sgcl_cli.method.bases import BASES, Slopes
from sgcl_cli.method.clusters import Clusters
from sgcl_cli.method.instance import instance_loss
from sgcl_cli.method.losses import contrast, ramp, released_contrast
from sgcl_cli.method.negatives import CORNERS, Draws, Sampler
from sgcl_cli.method.objective import Embedded, Losses, Objective, Term, WantedViews
from sgcl_cli.method.positives import Neighbourhood
from sgcl_cli.method.settings import Settings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Selection:
    """The patches that the anchors of a batch are compared with.

    :ivar index: (B,), the anchors' patches.
    :ivar spatial: P_sp, int64 (B, X) as in ``sets``.
    :ivar positives: the union of P_sp and P_se, in the same form.
    :ivar near: the look-alikes of each anchor and its auxiliary anchors, int64 (B, A, X); None without propagation.
    :ivar pool: (P,), the patches among which ranks are determined.
    :ivar rows: (P, D), their bank rows, float32.
    :ivar similarity: (B, P), v . m.
    :ivar position: (B, Z), Q as positions in the pool, in the order of the drawn quantiles.
    :ivar drawn: (B,), float32, 0 for an anchor without candidates for Q, else 1.
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
        """P_se, int64 (B, X) as in ``sets``."""
        return sets.empty(self.index) if self.near is None else sets.distinct(self.near.flatten(1), self.index)


class SGCL(Objective):
    """L = w_self L_self + w(e) w_sp L_sp + w_in L_in over a corpus of N patches; the base computes L_self."""

    remembers = True

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
        super().__init__(settings, slide, cell, dim=dim, hidden_dim=hidden_dim, seed=seed, device=device)
        self.base = BASES[settings.base](settings, dim=dim, seed=seed, device=self.device)
        self.candidates = {"self": self.base.candidates} if settings.weight_self > 0 else {}
        self.refits = settings.clustered
        dtype = _DTYPES[settings.bank_dtype]

        def rows(stream: str, size: int) -> Tensor:
            return bank.random_rows(self.n, size, seed, stream, dtype=dtype, device=self.device)

        self.bank_v: Tensor | None = rows("v", dim) if self.base.banked or settings.spatial else None
        self.bank_h: Tensor | None = rows("h", hidden_dim) if settings.spatial and settings.ranking == "h" else None
        self.bank_corners: Tensor | None = None
        if settings.inner:
            self.bank_corners = torch.empty(CORNERS, self.n, dim, dtype=dtype, device=self.device)
            for corner, rows_ND in enumerate(self.bank_corners):
                rows_ND.copy_(rows(f"corner{corner}", dim))
        self.clusters: Clusters | None = None
        self._slide_N = slide.to(self.device)
        self._neighbourhood: Neighbourhood | None = None
        if settings.spatial and settings.expansion:
            self._neighbourhood = Neighbourhood(self._slide_N, cell.to(self.device), settings.radius)
        self.sampler = Sampler(settings, self.n, seed, self.device, uniform=self.base.uniform_draws)
        self._zero = torch.zeros((), device=self.device)
        start_4 = torch.arange(0, CORNERS * self.n, self.n, device=self.device)
        self._corner_start_4K = start_4[:, None].expand(-1, settings.corner_negatives).reshape(-1)

    @classmethod
    def wanted_views(cls, settings: Settings) -> WantedViews:
        """The quarters if there is an inner term, and the views that the base needs."""
        base = BASES[settings.base]
        return WantedViews(settings.inner, base.second, settings.key_momentum if base.followed else None)

    @classmethod
    def bytes_needed(cls, settings: Settings, n: int, *, dim: int = 128, hidden_dim: int = 512) -> int:
        """Bytes of banks, labels, inverted lists and neighbour lists for n patches of full tissue.

        The temporary memory of a step is not included.
        """
        base = BASES[settings.base]
        width = torch.empty(0, dtype=_DTYPES[settings.bank_dtype]).element_size()
        numbers = dim if base.banked or settings.spatial else 0
        numbers += hidden_dim if settings.spatial and settings.ranking == "h" else 0
        numbers += CORNERS * dim if settings.inner else 0
        per_patch = float(numbers * width)
        per_patch += settings.clusterings * 4 + 12 if settings.clustered else 0
        if settings.spatial and settings.expansion:
            per_patch += positives.stored_bytes(settings.radius)
        return int(n * per_patch) + base.bytes_needed(settings, dim=dim)

    @property
    def banks(self) -> dict[str, Tensor]:
        """The banks "v" and "h", as far as they are needed."""
        return {name: rows for name, rows in (("v", self.bank_v), ("h", self.bank_h)) if rows is not None}

    def schedule(self, epoch: float) -> dict[str, float]:
        """w(e)."""
        return {"ramp": ramp(epoch, self.settings.ramp_epochs)}

    @torch.no_grad()
    def losses(
        self, index_B: Tensor, query: Embedded, key: Embedded | None = None, *, epoch: float, step: int
    ) -> Losses:
        """The terms "self", "spatial" and "inner" from the current banks; a term without weight is 0.

        h of the query is used for ranking only. For the arguments see ``Objective``.
        """
        settings, draws = self.settings, self.sampler.at(step)
        slopes: Slopes = []
        self_term = inner_term = spatial_sum = spatial_count = self._zero
        watch: Callable[[], dict[str, Tensor]] = dict
        with torch.autocast(query.v.device.type, enabled=False):
            if settings.weight_self > 0:
                self_term, slopes = self.base.loss(index_B, query, key, draws, self.bank_v)
            if settings.inner:
                assert query.corners is not None, "the inner term needs the four quarters"
                inner_term, slope_4BD = self._inner_loss(index_B, query.corners.float(), draws)
                slopes.append((query.corners, slope_4BD))
            if settings.spatial:
                spatial_sum, spatial_count, watch = self._spatial_loss(index_B, query.v, query.h.float(), draws)
            means = torch.add(self_term * settings.weight_self, inner_term, alpha=settings.weight_inner)
        weight = ramp(epoch, settings.ramp_epochs) * settings.weight_spatial
        return Losses(
            means=similarity.with_slopes(means, *slopes),
            terms={
                "self": Term(self_term),
                "spatial": Term(spatial_sum, spatial_count, weight),
                "inner": Term(inner_term),
            },
            watch=watch,
        )

    def _inner_loss(self, index_B: Tensor, corners_4BD: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """L_in over the batch, and the slope of w_in L_in in the quarters (4, B, D)."""
        assert self.bank_corners is not None
        own_4BD = self.bank_corners.index_select(1, index_B).float()
        index_K = draws.corners.view(-1)
        row_KD = similarity.rows_of(self.bank_corners.flatten(0, 1), index_K + self._corner_start_4K)
        return instance_loss(
            corners_4BD,
            own_4BD,
            index_B,
            row_KD,
            index_K,
            temperature=self.settings.temperature,
            weight=self.settings.weight_inner,
        )

    def _spatial_loss(
        self, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor, Callable[[], dict[str, Tensor]]]:
        """The sum of L_sp over the anchors that contribute, with gradient; their number; and the numbers to be logged."""
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
        watch = partial(self._watched, chosen, length_B, positive_BX, negative_BZ)
        return spatial_sum, counted_B.sum(), watch

    @torch.no_grad()
    def _watched(
        self, chosen: Selection, length_B: Tensor, positive_BX: Tensor, negative_BZ: Tensor
    ) -> dict[str, Tensor]:
        """Numbers of the spatial term for the log; NaN where there is nothing to average.

        spatial_positives, propagated_positives: of each anchor (B,).    positive_similarity, negative_similarity: mean of
        v . m over all of the batch.    propagated_same_slide: share of the propagated positives on the anchor's own slide.

        :param positive_BX, negative_BZ: v . m / T.
        """
        temperature, index_B = self.settings.spatial_temperature, chosen.index
        similar = positive_BX.masked_fill(positive_BX < similarity.NOTHING / 2, 0).sum() * temperature
        dissimilar = torch.dot(negative_BZ.mean(1), chosen.drawn) * temperature
        propagated_BX = chosen.propagated
        far_BX = sets.taken(propagated_BX, index_B)
        mates_BX = (self._slide_N[propagated_BX] == self._slide_N[index_B][:, None]) & far_BX
        propagated_B = far_BX.sum(1, dtype=torch.float32)
        return {
            "spatial_positives": sets.sizes(chosen.spatial, index_B),
            "propagated_positives": propagated_B,
            "positive_similarity": similar / length_B.sum(),
            "negative_similarity": dissimilar / chosen.drawn.sum(),
            "propagated_same_slide": mates_BX.sum() / propagated_B.sum(),
        }

    @torch.no_grad()
    def select(self, index_B: Tensor, v_BD: Tensor, h_BH: Tensor, draws: Draws) -> Selection:
        """P_sp, P_se, P and Q of every anchor, from the current banks.

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
            similarity_BP, k = similarity_BAP[:, 0], settings.neighbours
            if whole:
                near_BAX = positives.near_exactly(query, index_B, similarity_BAP, self.clusters, k)
            else:
                near_BAX = positives.near_by_threshold(
                    query,
                    index_B,
                    similarity_BAP,
                    pool_P,
                    self.clusters,
                    k=k,
                    row_ND=self.bank_v,
                    phase=draws.phase,
                )
            positive_BX = sets.distinct(torch.cat([spatial_BX, near_BAX.flatten(1)], 1), index_B)
        else:
            similarity_BP = v_BD @ row_PD.T
        ranking_BP = similarity_BP
        if self.bank_h is not None:
            ranking_BP = h_BH @ (self.bank_h.float() if whole else similarity.rows_of(self.bank_h, pool_P)).T
        position_BZ, drawn_B = negatives.semi_hard(
            ranking_BP, pool_P, positive_BX, draws.quantile, settings.top_share, whole=whole
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
        """P_sp of the patches ``index_B``, ascending, on the objective's device; empty without the expansion."""
        return sets.empty(index_B) if self._neighbourhood is None else self._neighbourhood.of(index_B)

    @torch.no_grad()
    def commit(self, index_B: Tensor, new: Embedded, *, momentum: float | None = None) -> None:
        """row <- normalise((1 - m) row + m new) in every bank; see ``Objective``.

        :param momentum: m, instead of the settings' bank_momentum; 1 replaces the rows.
        """
        momentum = self.settings.bank_momentum if momentum is None else momentum
        first_B = bank.first_of_each(index_B)
        for rows, fresh in ((self.bank_v, new.v), (self.bank_h, new.h), (self.bank_corners, new.corners)):
            if rows is not None:
                assert fresh is not None, "the inner term needs the four quarters"
                bank.commit(rows, index_B, first_B, fresh, momentum)
        self.base.commit(index_B, new)

    @torch.no_grad()
    def refit(self, epoch: int) -> dict[str, Any]:
        """Run C independent k-means on the bank of v, on its device, and replace the labels.

        :returns: per clustering inertia, iterations, smallest and largest cluster; and the checksum of the labels. Empty
            if the objective needs no clusters.
        """
        if not self.settings.clustered:
            return {}
        assert self.bank_v is not None
        count = self.settings.clusters
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

    def fitted(self) -> Tensor:
        """The labels, int32 (N, C); zeros before the first fit."""
        if self.clusters is not None:
            return self.clusters.labels
        return torch.zeros(self.n, self.settings.clusterings, dtype=torch.int32, device=self.device)

    def adopt(self, found: Tensor) -> None:
        """Use labels that another rank has fitted: int (N, C)."""
        assert found.shape == (self.n, self.settings.clusterings)
        self.clusters = Clusters(found.to(self.device, torch.int32).contiguous(), self.settings.agreement)

    def checksum(self) -> int | None:
        """Checksum of the labels, the same on every device and rank; None before the first fit."""
        return None if self.clusters is None else self.clusters.checksum()

    def state_dict(self) -> dict[str, Any]:
        """The banks (not copies), the labels, and the state of the base."""
        return {
            "bank_v": self.bank_v,
            "bank_h": self.bank_h,
            "bank_corners": [] if self.bank_corners is None else list(self.bank_corners),
            "labels": None if self.clusters is None else self.clusters.labels,
            **self.base.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state into the banks; see ``Objective``."""
        mine = self.state_dict()
        for name in {**mine, **state}:
            if name != "labels" and _shape(mine.get(name)) != _shape(state.get(name)):
                raise _misfit(f"{name} is {_shape(state.get(name))}, not {_shape(mine.get(name))}")
        labels = state.get("labels")
        if labels is not None and tuple(labels.shape) != (self.n, self.settings.clusterings):
            raise _misfit(f"labels are {tuple(labels.shape)}")
        for name in ("bank_v", "bank_h"):
            if mine[name] is not None:
                mine[name].copy_(state[name])
        if self.bank_corners is not None:
            for rows, saved in zip(self.bank_corners, state["bank_corners"], strict=True):
                rows.copy_(saved)
        self.base.load_state_dict(state)
        self.clusters = None
        if labels is not None:
            self.adopt(labels)


def _misfit(what: str) -> ArtefactError:
    return ArtefactError(
        f"the saved objective does not fit: {what}", "it was made from other patches or under other settings"
    )


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return [_shape(item) for item in value] if isinstance(value, list) else type(value).__name__
