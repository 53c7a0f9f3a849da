"""k-means over a bank, and which patches share a cluster.

Letters: N patches, S rows that centres are fitted to, G clusters or groups, D size of a row, C clusterings, W members considered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sgcl_cli.config.objective import Agreement
from sgcl_cli.method.similarity import rows_of
from sgcl_cli.method.streams import generator, strips

_ROWS_PER_CLUSTER = 256
_MOST_ITERATIONS = 20
_ENOUGH = 1e-4
_BLOCK_NUMBERS = 1 << 23
_CHECKSUM_FACTOR = 0x5851F42D4C957F2D


@dataclass(frozen=True)
class Fit:
    """The result of one k-means run.

    :ivar labels: int32 (N,).
    :ivar inertia: mean squared distance of a row to its centre.
    :ivar iterations: how many were run.
    """

    labels: Tensor
    inertia: float
    iterations: int


def fit(row_ND: Tensor, clusters: int, seed: int, *position: int) -> Fit:
    """Lloyd's k-means from ``clusters`` random rows, in blocks, on the bank's device.

    Centres are fitted to at most 256 rows per cluster, then every row is assigned. A cluster that loses all its rows
    is refilled with the row that lies farthest from its centre, so none is empty at the end.

    :param row_ND: the bank; bfloat16 is widened block by block.
    :param clusters: at most N.
    :param position: distinguishes this run from others of the same seed: epoch, run.
    """
    n = row_ND.shape[0]
    assert 0 < clusters <= n
    draw = generator(seed, "clusters", *position)
    sample_S = strips(n, min(n, _ROWS_PER_CLUSTER * clusters), draw).to(row_ND.device)
    row_SD = rows_of(row_ND, sample_S)
    start_G = strips(len(row_SD), clusters, draw).to(row_ND.device)
    centre_GD, iterations = _lloyd(row_SD, row_SD.index_select(0, start_G))
    label_N, square_N = _assign(row_ND, centre_GD)
    _refill(label_N, square_N, clusters)
    return Fit(label_N.to(torch.int32), float(square_N.mean(dtype=torch.float64)), iterations)


def _lloyd(row_SD: Tensor, centre_GD: Tensor) -> tuple[Tensor, int]:
    before = float("inf")
    for iteration in range(_MOST_ITERATIONS):
        label_S, square_S = _assign(row_SD, centre_GD)
        inertia = float(square_S.sum(dtype=torch.float64))
        if before - inertia <= _ENOUGH * before < float("inf"):
            return centre_GD, iteration
        before = inertia
        _refill(label_S, square_S, len(centre_GD))
        centre_GD = _centres(row_SD, label_S, len(centre_GD))
    return centre_GD, _MOST_ITERATIONS


def _centres(row_SD: Tensor, label_S: Tensor, clusters: int) -> Tensor:
    """Mean of each cluster's rows; summed in float64, so that the order of the additions does not matter."""
    sum_GD = row_SD.new_zeros(clusters, row_SD.shape[1], dtype=torch.float64)
    for rows, labels in zip(torch.split(row_SD, 65_536), torch.split(label_S, 65_536), strict=True):
        sum_GD.index_add_(0, labels, rows.double())
    return (sum_GD / torch.bincount(label_S, minlength=clusters)[:, None]).float()


def _assign(row_ND: Tensor, centre_GD: Tensor) -> tuple[Tensor, Tensor]:
    """argmin_g |m - c_g|^2 and that minimum, for every row: int64 (N,), float32 (N,)."""
    half_G = centre_GD.square().sum(1) / 2
    labels, squares = [], []
    for rows in torch.split(row_ND, max(1, _BLOCK_NUMBERS // len(centre_GD))):
        block = rows.float()
        best = torch.addmm(half_G, block, centre_GD.T, beta=-1).max(1)
        labels.append(best.indices)
        squares.append((block.square().sum(1) - 2 * best.values).clamp_min_(0))
    return torch.cat(labels), torch.cat(squares)


def _refill(label_N: Tensor, square_N: Tensor, clusters: int) -> None:
    """Give each empty cluster the farthest row of a cluster that has others, in place."""
    while True:
        size_G = torch.bincount(label_N, minlength=clusters)
        empty_E = (size_G == 0).nonzero()[:, 0]
        if empty_E.numel() == 0:
            return
        spare_N = torch.where(size_G[label_N] > 1, square_N, -1.0)
        farthest = spare_N.topk(min(empty_E.numel(), label_N.numel()))
        taken = farthest.indices[farthest.values >= 0]
        assert taken.numel() > 0, "the bank holds numbers that are not finite"
        label_N[taken] = empty_E[: taken.numel()]
        square_N[taken] = 0.0


@dataclass(frozen=True)
class Groups:
    """A partition of the patches into groups.

    :ivar member: int32 (N,), the patches, sorted by group.
    :ivar start: int32 (N,), for each patch the position in ``member`` where its group begins.
    :ivar last: int32 (N,), the last position of its group.
    :ivar place: int32 (W,), 0 .. the size of the largest group - 1.
    """

    member: Tensor
    start: Tensor
    last: Tensor
    place: Tensor

    @classmethod
    def of(cls, group_N: Tensor) -> Groups:
        """Build from the group of each patch, int64 (N,), numbered from 0."""
        size_G = torch.bincount(group_N)
        start_G = size_G.cumsum(0) - size_G
        start_N = start_G[group_N]
        return cls(
            member=group_N.sort(stable=True).indices.to(torch.int32),
            start=start_N.to(torch.int32),
            last=(start_N + size_G[group_N] - 1).to(torch.int32),
            place=torch.arange(int(size_G.max()), dtype=torch.int32, device=group_N.device),
        )

    @property
    def largest(self) -> int:
        """Patches in the largest group."""
        return len(self.place)

    def members(self, patch: Tensor, at_most: int, phase: Tensor) -> Tensor:
        """The members of the group of each patch, that patch included: int64, the shape of ``patch`` with W appended.

        W is the size of the largest group, or ``at_most`` if that is smaller. Larger groups are thinned to W equally spaced
        members; the last member of smaller groups is repeated.

        :param phase: (1,) in [0, 1): where between two kept members the thinning starts.
        """
        start, last = self.start[patch][..., None], self.last[patch][..., None]
        place = self.place
        if at_most < self.largest:
            stride = ((last - start + 1).double() / at_most).clamp_min_(1)
            place = ((place[:at_most] + phase) * stride).to(torch.int32)
        return self.member[torch.minimum(start + place, last)].long()


class Clusters:
    """The labels of C independent clusterings, and the groups that follow from them.

    :param label_NC: int32 (N, C).
    :param agreement: "all": in every clustering; "any": in at least one.

    :ivar groups: for "all" one partition, by equality of all labels; for "any" one per clustering.
    """

    def __init__(self, label_NC: Tensor, agreement: Agreement) -> None:
        self.labels = label_NC
        self._agreement = agreement
        self.groups = self._grouped()

    def agree(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether two patches share a cluster, for index tensors that broadcast."""
        same = self.labels[first] == self.labels[second]
        return same.all(-1) if self._agreement == "all" else same.any(-1)

    def checksum(self) -> int:
        """A number that differs when any label differs; the same on every device and rank."""
        flat = self.labels.reshape(-1).long() + 1
        place = torch.arange(1, flat.numel() + 1, device=flat.device)
        mixed = (flat * _CHECKSUM_FACTOR) ^ (place * -7046029254386353131)
        return int((mixed * (mixed >> 29)).sum())

    def _grouped(self) -> list[Groups]:
        if self._agreement == "any":
            return [Groups.of(label_N.long()) for label_N in self.labels.unbind(1)]
        group_N = torch.zeros_like(self.labels[:, 0], dtype=torch.int64)
        for label_N in self.labels.unbind(1):
            _, group_N = torch.unique(group_N * (int(label_N.max()) + 1) + label_N, return_inverse=True)
        return [Groups.of(group_N)]
