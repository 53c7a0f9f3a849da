from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method import sets
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.sgcl import SGCL
from tests.method.made import AXES, options


def agrees(plain, case, epoch=0.7, step=3, tolerance=2e-5):
    got, want = case.losses(epoch, step), plain.oracle(case, epoch, step)
    got.total.backward()
    settings = case.objective.settings
    if settings.weight_self:
        assert float(got.terms["self"].value) == pytest.approx(want.self_term, rel=tolerance, abs=1e-6)
    assert float(got.terms["inner"].value) == pytest.approx(want.inner_term, rel=tolerance, abs=1e-6)
    assert got.terms["spatial"].sum.item() == pytest.approx(want.spatial_sum, rel=tolerance, abs=1e-6)
    assert int(got.terms["spatial"].count) == want.spatial_count
    assert got.total.item() == pytest.approx(want.total, rel=tolerance, abs=1e-6)
    np.testing.assert_allclose(case.v.grad.numpy(), want.v_gradient, rtol=tolerance, atol=tolerance * 0.1)
    if settings.inner:
        np.testing.assert_allclose(
            case.corners.grad.numpy(), want.corner_gradient, rtol=tolerance, atol=tolerance * 0.1
        )
    if settings.spatial:
        chosen = case.objective.select(case.index, case.v.detach(), case.h, case.objective.sampler.at(step))
        for b, (p_sp, p_se, p, q) in enumerate(want.sets):
            for table, wanted in ((chosen.spatial, p_sp), (chosen.propagated, p_se), (chosen.positives, p)):
                found = sets.members(table, case.index, b).tolist()
                assert sorted(found) == sorted(wanted)
            assert drawn(chosen, b) == q
    return got, want


def drawn(chosen, row):
    return sorted(chosen.pool[chosen.position[row]].tolist()) if chosen.drawn[row] else []


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("rows", ["unit_rows", "coarse_rows"])
def test_terms_and_gradients_equal_the_plain_equations(plain, axis, rows):
    agrees(plain, plain.case(replace(AXES[axis], neighbours=12), 50, rows=getattr(plain, rows)))


@pytest.mark.parametrize("axis", ["npid", "moco", "as-released", "moco-as-released", "any"])
def test_terms_and_gradients_equal_the_plain_equations_at_2000(plain, axis):
    got, want = agrees(plain, plain.case(replace(AXES[axis], neighbours=60), 2_000, rows=plain.coarse_rows))
    assert any(p_se - p_sp for p_sp, p_se, _, _ in want.sets)
    assert float(got.watched["propagated_positives"].mean()) > 0


@effort(max_examples=25, deadline=None)
@given(
    n=st.integers(8, 40),
    slides=st.integers(1, 3),
    gaps=st.floats(0, 3),
    seed=st.integers(0, 10_000),
    radius=st.sampled_from([1.1, 2.0, 3.0, 8.0]),
    auxiliary=st.integers(0, 3),
    neighbours=st.integers(1, 7),
    released=st.booleans(),
)
def test_fast_equals_dense_on_any_slides(plain, n, slides, gaps, seed, radius, auxiliary, neighbours, released):
    given = options(
        radius=radius, auxiliary=auxiliary, neighbours=neighbours, as_released=released, negatives=50, pool=64
    )
    case = plain.case(given, n, rows=plain.coarse_rows, slides=slides, gaps=gaps, seed=seed, batch=4)
    assume(len(case.index) > 1)
    agrees(plain, case, tolerance=1e-5)


@pytest.mark.parametrize("pool", [4_096, 300])
def test_the_anchor_is_never_its_own_positive_or_negative(plain, pool):
    case = plain.case(options(neighbours=100, pool=pool, auxiliary=2), 600, rows=plain.coarse_rows, batch=32)
    chosen = case.objective.select(case.index, case.v.detach(), case.h, case.objective.sampler.at(0))
    assert int(sets.sizes(chosen.propagated, case.index).sum()) > 0
    for b, i in enumerate(case.index.tolist()):
        positives, negatives = sets.members(chosen.positives, case.index, b).tolist(), drawn(chosen, b)
        assert i not in positives
        assert i not in negatives
        assert not set(positives) & set(negatives)
        assert len(set(positives)) == len(positives)
        parts = [sets.members(table, case.index, b).tolist() for table in (chosen.spatial, chosen.propagated)]
        assert set(positives) == {*parts[0], *parts[1]}
        assert len(negatives) == case.objective.settings.negatives


def test_before_the_first_fit_nothing_is_propagated(plain):
    case = plain.case(options(), 200, fitted=False)
    got, _ = agrees(plain, case)
    assert int(got.watched["propagated_positives"].sum()) == 0
    case.objective.refit(1)
    assert int(case.losses().watched["propagated_positives"].sum()) > 0


def test_isolated_patch_has_no_auxiliary_anchor_and_does_not_count(plain):
    case = plain.case(options(), 60, slides=1, fitted=False)
    lonely = (case.cell[:, 0] >= 50).nonzero()[:, 0]
    case.index, case.v, case.h = lonely[:1], case.v.detach()[:1].requires_grad_(), case.h[:1]
    case.corners = case.corners.detach()[:, :1]
    got = case.losses()
    assert int(got.terms["spatial"].count) == 0
    assert got.terms["spatial"].sum.item() == float(got.terms["spatial"].value) == 0
    got.total.backward()
    assert torch.isfinite(case.v.grad).all()


def test_gradients_reach_v_and_quarters_but_no_bank(plain):
    case = plain.case(options(), 80)
    before = copy.deepcopy(case.objective.state_dict())
    got = case.losses()
    got.total.backward()
    assert case.v.grad.abs().sum() > 0
    assert case.corners.grad.abs().sum() > 0
    after = case.objective.state_dict()
    for name in ("bank_v", "bank_h", "labels"):
        assert not after[name].requires_grad
        assert torch.equal(before[name], after[name])
    for old, new in zip(before["bank_corners"], after["bank_corners"], strict=True):
        assert torch.equal(old, new)


def test_gradient_reaches_the_encoder_that_made_v(plain):
    case = plain.case(options(), 80)
    weight = torch.eye(16, requires_grad=True)
    case.v = torch.nn.functional.normalize(case.v.detach() @ weight, dim=1)
    case.losses().total.backward()
    assert weight.grad.abs().sum() > 0


def test_no_autocast_inside(plain):
    case = plain.case(options(), 80)
    outside = case.losses().total.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case.losses().total.item() == outside


def test_adaptivity_is_the_gradient_that_the_method_states(plain):
    """dL/d(v.m_j) = -(1/T) p_j S_Q/(S_P+S_Q): the most similar positive is pulled most, none is pushed."""
    given = options(weight_self=0, weight_inner=0, ramp_epochs=0, propagation=False, radius=5)
    case = plain.case(given, 90, batch=2, slides=1)
    chosen = case.objective.select(case.index, case.v.detach(), case.h, case.objective.sampler.at(3))
    b = int(sets.sizes(chosen.positives, case.index).argmax())
    positives, negatives = sets.members(chosen.positives, case.index, b).tolist(), drawn(chosen, b)
    assert len(positives) > 10
    case.losses().total.backward()
    m, v = case.objective.bank_v.double(), case.v.detach()[b].double()
    e_p, e_q = (m[positives] @ v / 0.07).exp(), (m[negatives] @ v / 0.07).exp()
    share = e_q.sum() / (e_p.sum() + e_q.sum())
    pull, push = -(e_p / e_p.sum()) * share / 0.07, (e_q / e_q.sum()) * share / 0.07
    expected = pull @ m[positives] + push @ m[negatives]
    assert int((sets.sizes(chosen.positives, case.index) > 0).sum()) == 1
    torch.testing.assert_close(case.v.grad[b].double(), expected, rtol=1e-4, atol=1e-5)


def test_two_halves_of_a_batch_make_the_whole(plain):
    """What two ranks add up to, given equal draws: means of halves, and the spatial sum over the joint count."""
    case = plain.case(options(pool=64), 200, batch=12)
    whole = case.losses()
    whole.total.backward()
    gradient, half = case.v.grad.clone(), len(case.index) // 2
    case.v.grad = None
    parts = [slice(0, half), slice(half, 2 * half)]
    assert 2 * half == len(case.index)
    halves = [
        case.objective.losses(case.index[p], Embedded(case.v[p], case.h[p], case.corners[:, p]), epoch=0.7, step=3)
        for p in parts
    ]
    count = sum(part.terms["spatial"].count for part in halves)
    total = sum(part.total_for(lambda own: count / 2) for part in halves) / 2
    total.backward()
    assert float(count) == float(whole.terms["spatial"].count)
    torch.testing.assert_close(total, whole.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(case.v.grad, gradient, rtol=1e-4, atol=1e-6)


def test_losses_do_not_depend_on_what_was_drawn_elsewhere(plain):
    case = plain.case(options(pool=64), 300)
    first = case.losses(step=5).total.item()
    torch.rand(17)
    assert case.losses(step=5).total.item() == first
    assert case.losses(step=6).total.item() != first


def test_bfloat16_banks_stay_close(plain):
    wide, narrow = (plain.case(options(bank_dtype=dtype, pool=128), 400) for dtype in ("float32", "bfloat16"))
    assert narrow.objective.bank_v.dtype == torch.bfloat16
    terms = [case.losses().terms for case in (wide, narrow)]
    assert float(terms[1]["self"].value) == pytest.approx(float(terms[0]["self"].value), rel=1e-2)
    narrow.objective.commit(narrow.index, narrow.query)
    assert narrow.objective.refit(0)["checksum"] == narrow.objective.checksum()


@pytest.mark.parametrize("axis", ["spatial-only", "plain-npid", "plain-moco"])
def test_refit_is_skipped_where_clusters_have_no_use(plain, axis):
    case = plain.case(AXES[axis], 60)
    assert case.objective.refit(1) == {}
    assert case.objective.clusters is None


@pytest.mark.parametrize(
    ("axis", "v", "h", "corners"),
    [
        ("npid", True, True, 4),
        ("no-inner", True, False, 0),
        ("plain-npid", True, False, 0),
        ("plain-moco", False, False, 0),
    ],
)
def test_only_the_banks_in_use_are_kept(plain, axis, v, h, corners):
    objective = plain.case(AXES[axis], 60).objective
    assert (objective.bank_v is not None) == v
    assert (objective.bank_h is not None) == h
    assert len([] if objective.bank_corners is None else objective.bank_corners) == corners


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_needed_covers_what_is_held(dtype):
    n, side = 4_900, 70
    cell = torch.stack([torch.arange(n) % side, torch.arange(n) // side], 1).double()
    settings, _ = resolve(options(bank_dtype=dtype), n, 10, 32)
    objective = SGCL(settings, torch.zeros(n, dtype=torch.int64), cell, seed=0, device="cpu")
    objective.refit(0)
    (group,) = objective.clusters.groups
    held = [objective.bank_v, objective.bank_h, objective.bank_corners, objective.clusters.labels]
    held += [group.member, group.start, group.last, *objective._neighbourhood.stored()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert held <= SGCL.bytes_needed(settings, n) <= 1.1 * held


@torch.no_grad()
def test_diagnostics_count_and_average(plain):
    case = plain.case(options(neighbours=20), 300, batch=16)
    got = case.losses()
    chosen = case.objective.select(case.index, case.v.detach(), case.h, case.objective.sampler.at(3))
    watched = got.watched
    assert watched["spatial_positives"].tolist() == sets.sizes(chosen.spatial, case.index).tolist()
    assert watched["propagated_positives"].tolist() == sets.sizes(chosen.propagated, case.index).tolist()
    v, m = case.v.detach(), case.objective.bank_v
    similar = [
        float(v[b] @ m[j]) for b in range(len(v)) for j in sets.members(chosen.positives, case.index, b).tolist()
    ]
    others = [float(v[b] @ m[j]) for b in range(len(v)) for j in drawn(chosen, b)]
    mates = [
        bool(case.slide[i] == case.slide[j])
        for b, i in enumerate(case.index)
        for j in sets.members(chosen.propagated, case.index, b).tolist()
    ]
    assert float(watched["positive_similarity"]) == pytest.approx(np.mean(similar), abs=1e-6)
    assert float(watched["negative_similarity"]) == pytest.approx(np.mean(others), abs=1e-6)
    assert float(watched["propagated_same_slide"]) == pytest.approx(np.mean(mates))
    assert not watched["positive_similarity"].requires_grad


def test_pool_estimates_the_exact_loss(plain):
    """A pool of half the bank: over 40 steps the loss averages to the exact one within 1 %."""
    found = {}
    for pool in (3_000, 1_500):
        case = plain.case(options(pool=pool, neighbours=80, negatives=4_096), 3_000, batch=24, dim=64)
        found[pool] = [float(case.losses(step=step).terms["spatial"].value) for step in range(40)]
    assert found[3_000] != found[1_500]
    assert np.mean(found[1_500]) == pytest.approx(np.mean(found[3_000]), rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("agreement", ["all", "any"])
def test_pool_path_runs_for_every_axis(plain, dtype, agreement):
    given = options(pool=100, neighbours=40, bank_dtype=dtype, agreement=agreement, auxiliary=2, radius=9.0)
    case = plain.case(given, 400, batch=8)
    got = case.losses()
    got.total.backward()
    assert torch.isfinite(got.total)
    assert torch.isfinite(case.v.grad).all()
    assert float(got.watched["propagated_positives"].max()) <= 3 * 40


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pool", [100, 400])
def test_a_cuda_device_gives_what_the_cpu_gives(plain, pool):
    case = plain.case(options(pool=pool, neighbours=30), 400, rows=plain.coarse_rows, batch=16)
    objective = SGCL(case.objective.settings, case.slide, case.cell, dim=16, hidden_dim=16, seed=0, device="cuda")
    objective.load_state_dict(case.objective.state_dict())
    wanted = case.losses()
    wanted.total.backward()
    v = case.v.detach().cuda().requires_grad_()
    query = Embedded(v, case.h.cuda(), case.corners.detach().cuda())
    got = objective.losses(case.index.cuda(), query, epoch=0.7, step=3)
    got.total.backward()
    torch.testing.assert_close(got.total.cpu(), wanted.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(v.grad.cpu(), case.v.grad, rtol=1e-4, atol=1e-5)
    assert objective.checksum() == case.objective.checksum()
