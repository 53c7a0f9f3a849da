"""The oracle: the method's equations as plain float64 loops, one anchor and one patch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sgcl_cli.method import negatives
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.sgcl import SGCL

EPSILON = 1e-7


def spatial_neighbours(slide, cell, i, radius):
    """P_sp(i) = { j : s_j = s_i, 0 < |c_j - c_i| < R }."""
    found = []
    for j in range(len(slide)):
        if slide[j] != slide[i]:
            continue
        squared = sum((a - b) ** 2 for a, b in zip(cell[j], cell[i], strict=True))
        if 0 < squared < radius**2:
            found.append(j)
    return found


def by_similarity(query, rows, candidates):
    """Most similar first, ties to the smaller index."""
    return sorted(candidates, key=lambda j: (-float(np.dot(query, rows[j])), j))


def near(u, query, i, rows, labels, k, agreement):
    """The k nearest of u that share u's clusters; neither u nor the anchor i is a candidate."""
    together = {"all": all, "any": any}[agreement]
    nearest = by_similarity(query, rows, [j for j in range(len(rows)) if j not in (u, i)])[:k]
    return {j for j in nearest if together(a == b for a, b in zip(labels[j], labels[u], strict=True))}


def instance(v, own, others, temperature):
    """-log(e^{v.own/t} / (e^{v.own/t} + sum e^{v.other/t})) and its gradient in v."""
    own_weight = math.exp(np.dot(v, own) / temperature)
    total, slope = own_weight, own_weight * own
    for other in others:
        weight = math.exp(np.dot(v, other) / temperature)
        total += weight
        slope = slope + weight * other
    return -math.log(own_weight / total), (slope / total - own) / temperature


def spatial(v, positive_rows, negative_rows, temperature, released_constant):
    """-log(S_P / (S_P + S_Q)) and its gradient, or what the published code computes when a constant is given."""
    s_p = s_q = 0.0
    m_p = m_q = np.zeros_like(v)
    for row in positive_rows:
        weight = math.exp(np.dot(v, row) / temperature)
        s_p, m_p = s_p + weight, m_p + weight * row
    for row in negative_rows:
        weight = math.exp(np.dot(v, row) / temperature)
        s_q, m_q = s_q + weight, m_q + weight * row
    if released_constant is None:
        total = s_p + s_q
        return -math.log(s_p / total), ((m_p + m_q) / total - m_p / s_p) / temperature
    total = s_p + s_q + released_constant
    share = s_p / total
    share_slope = (m_p / total - s_p * m_p / total**2) / temperature
    return -math.log(share + EPSILON), -share_slope / (share + EPSILON)


@dataclass
class Case:
    """A small corpus, an objective over it and a batch of anchors."""

    objective: SGCL
    slide: torch.Tensor
    cell: torch.Tensor
    index: torch.Tensor
    v: torch.Tensor
    h: torch.Tensor
    corners: torch.Tensor
    key: Embedded

    @property
    def query(self):
        return Embedded(self.v, self.h, self.corners)

    def losses(self, epoch=0.7, step=3):
        return self.objective.losses(self.index, self.query, self.key, epoch=epoch, step=step)


def oracle(case, epoch, step):
    """Every term of the loss, its gradients, and the sets, from the draws that the implementation publishes."""
    objective, settings = case.objective, case.objective.settings
    n, seed, batch = objective.n, objective.seed, len(case.index)

    def numbers(tensor):
        return tensor.detach().double().numpy()

    def tau_rows(bank, draws, i):
        return [bank[k] for k in draws.tolist() if k != i]

    index = case.index.tolist()
    v, h, corners = numbers(case.v), numbers(case.h), numbers(case.corners)
    m = None if objective.bank_v is None else numbers(objective.bank_v)
    hb = None if objective.bank_h is None else numbers(objective.bank_h)
    labels = None if objective.clusters is None else objective.clusters.labels.tolist()
    uniform_count = settings.uniform_negatives if settings.base == "npid" and settings.weight_self > 0 else 0
    drawn = negatives.Sampler(settings, n, seed, uniform=uniform_count).at(step)
    uniform, corner_draws, quantiles = drawn.uniform, drawn.corners, drawn.quantile.tolist()

    out = SimpleNamespace(self_term=0.0, inner_term=0.0, spatial_sum=0.0, spatial_count=0, sets=[])
    v_self, v_spatial, c_inner = np.zeros_like(v), np.zeros_like(v), np.zeros_like(corners)
    for b, i in enumerate(index):
        if settings.base == "npid":
            value, v_self[b] = instance(v[b], m[i], tau_rows(m, uniform, i), settings.temperature)
        else:
            queue = objective.base.queue
            kept = [row for row, j in zip(numbers(queue.row_QD), queue.index_Q.tolist(), strict=True) if j != i]
            value, v_self[b] = instance(v[b], numbers(case.key.v)[b], kept, settings.temperature)
        out.self_term += value / batch

        if objective.bank_corners is not None:
            banks = [numbers(rows) for rows in objective.bank_corners]
            others = [row for c in range(4) for row in tau_rows(banks[c], corner_draws[c], i)]
            for c in range(4):
                value, c_inner[c, b] = instance(corners[c, b], banks[c][i], others, settings.temperature)
                out.inner_term += value / (4 * batch)

        if not settings.spatial:
            continue
        p_sp = (
            spatial_neighbours(case.slide.tolist(), case.cell.tolist(), i, settings.radius)
            if settings.expansion
            else []
        )
        p_se = set()
        if settings.propagation and labels is not None:
            auxiliary = by_similarity(v[b], m, p_sp)[: settings.auxiliary]
            for u, query in [(i, v[b]), *((u, m[u]) for u in auxiliary)]:
                p_se |= near(u, query, i, m, labels, settings.neighbours, settings.agreement)
        p = set(p_sp) | p_se
        ranking_query, ranking_rows = (h[b], hb) if settings.ranking == "h" else (v[b], m)
        eligible = by_similarity(ranking_query, ranking_rows, [j for j in range(n) if j != i and j not in p])
        top = eligible[: max(1, math.floor(Fraction(str(settings.top_share)) * n))]
        q = [top[math.floor(u * len(top))] for u in quantiles] if top else []
        out.sets.append((set(p_sp), p_se, p, sorted(q)))
        constant = n - len(p) if settings.as_released else None
        if p or settings.as_released:
            value, v_spatial[b] = spatial(
                v[b], [m[j] for j in p], [m[j] for j in q], settings.spatial_temperature, constant
            )
            out.spatial_sum += value
            out.spatial_count += 1
    out.spatial_term = out.spatial_sum / max(out.spatial_count, 1)
    length = settings.ramp_epochs
    weight = (math.exp(-5 * (1 - min(epoch, length) / length) ** 2) if length else 1.0) * settings.weight_spatial
    out.total = (
        settings.weight_self * out.self_term + weight * out.spatial_term + settings.weight_inner * out.inner_term
    )
    out.v_gradient = settings.weight_self * v_self / batch + weight * v_spatial / max(out.spatial_count, 1)
    out.corner_gradient = settings.weight_inner * c_inner / (4 * batch)
    return out


def lattice(n, slides, gaps, seed):
    """Slides of random holes, with one isolated patch at the end of each: (N,) and (N, 2)."""
    draw = np.random.default_rng(seed)
    slide, cell = [], []
    for s in range(slides):
        count = n // slides + (s < n % slides)
        side = math.ceil(math.sqrt(count * (1 + gaps)))
        places = draw.permutation(side * side)[: count - 1]
        cell += [(float(place % side), float(place // side)) for place in places] + [(side + 50.0, side + 50.0)]
        slide += [s * 7] * count
    order = draw.permutation(n)
    return torch.tensor(slide)[order], torch.tensor(cell, dtype=torch.float64)[order]


def coarse_rows(*shape, seed):
    """Small multiples of 1/8: their products are exact in float32 and tie often."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float() / 8


def unit_rows(*shape, seed):
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make_case(options, n, *, rows=unit_rows, slides=3, gaps=0.5, batch=6, dim=16, fitted=True, seed=0, epochs=20):
    slide, cell = lattice(n, slides, gaps, seed)
    settings, _ = resolve(options, n, epochs, batch)
    objective = SGCL(settings, slide, cell, dim=dim, hidden_dim=dim, seed=seed, device="cpu")
    corners = [] if objective.bank_corners is None else objective.bank_corners
    banks = [objective.bank_v, objective.bank_h, *corners]
    for number, bank in enumerate(bank for bank in banks if bank is not None):
        bank.copy_(rows(*bank.shape, seed=100 * seed + number))
    if fitted and settings.clustered:
        draw = torch.Generator().manual_seed(seed)
        objective.adopt(torch.randint(2, (n, settings.clusterings), generator=draw))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))
    index = order[:batch]
    index[0] = (cell[:, 0] >= 50).nonzero()[0, 0]
    index = torch.unique(index)
    batch = len(index)
    if settings.base == "moco":
        queue = objective.base.queue
        queue.row_QD.copy_(rows(*queue.row_QD.shape, seed=seed + 5))
        queue.index_Q[: 2 * batch] = torch.cat([index, order[-batch:]])[: len(queue.index_Q)]
    return Case(
        objective,
        slide,
        cell,
        index,
        rows(batch, dim, seed=seed + 2).requires_grad_(),
        rows(batch, dim, seed=seed + 3),
        rows(4, batch, dim, seed=seed + 4).requires_grad_(),
        Embedded(rows(batch, dim, seed=seed + 6), rows(batch, dim, seed=seed + 6)),
    )


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors: threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def plain():
    """The oracle and the makers of cases."""
    return SimpleNamespace(
        oracle=oracle,
        case=make_case,
        lattice=lattice,
        coarse_rows=coarse_rows,
        unit_rows=unit_rows,
        spatial_neighbours=spatial_neighbours,
        instance=instance,
        spatial=spatial,
    )
