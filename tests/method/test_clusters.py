from __future__ import annotations

import pytest
import torch

from sgcl_cli.method.clusters import Clusters, Groups, fit


def blobs(plain, groups=6, each=50, spread=0.02):
    centre = plain.unit_rows(groups, 16, seed=0)
    label = torch.arange(groups * each) % groups
    noise = torch.randn(len(label), 16, generator=torch.Generator().manual_seed(1))
    return centre[label] + spread * noise, label


def test_far_groups_are_found(plain):
    rows, truth = blobs(plain)
    best = min((fit(rows, 6, seed) for seed in range(8)), key=lambda run: run.inertia)
    pairs = torch.stack([truth, best.labels.long()], 1).unique(dim=0)
    assert len(pairs) == 6
    assert best.inertia == pytest.approx(16 * 0.02**2, rel=0.1)


def test_every_row_is_at_its_nearest_centre(plain):
    rows = plain.unit_rows(400, 8, seed=0)
    run = fit(rows, 5, 0)
    centre = torch.stack([rows[run.labels == g].mean(0) for g in range(5)])
    nearest = torch.cdist(rows, centre).argmin(1)
    assert float((nearest == run.labels).float().mean()) > 0.9
    within = (rows - centre[run.labels.long()]).square().sum(1).mean()
    alone = (rows - rows.mean(0)).square().sum(1).mean()
    assert float(within) < 0.8 * float(alone)
    assert run.inertia == pytest.approx(float(within), rel=0.05)
    assert 1 < run.iterations <= 20


@pytest.mark.parametrize("clusters", [1, 7, 59, 60])
def test_no_cluster_is_empty(plain, clusters):
    for rows in (plain.unit_rows(60, 4, seed=0), torch.ones(60, 4), blobs(plain, groups=2, each=30, spread=0)[0]):
        labels = fit(rows, clusters, 0).labels
        assert labels.dtype == torch.int32
        assert torch.bincount(labels.long(), minlength=clusters).min() > 0
        assert int(labels.max()) < clusters


def test_seed_epoch_and_run_decide(plain):
    rows = plain.unit_rows(300, 8, seed=0)
    first = fit(rows, 9, 0, 1, 2).labels
    assert torch.equal(first, fit(rows, 9, 0, 1, 2).labels)
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 1)):
        assert not torch.equal(first, fit(rows, 9, *other).labels)


def test_large_banks_are_fitted_on_a_sample_and_assigned_whole(plain):
    rows, truth = blobs(plain, groups=4, each=2_000)
    runs = [fit(rows, 4, seed) for seed in range(6)]
    best = min(runs, key=lambda run: run.inertia)
    assert len(best.labels) == 8_000
    assert len(torch.stack([truth, best.labels.long()], 1).unique(dim=0)) == 4


def test_bfloat16_banks(plain):
    rows, truth = blobs(plain)
    best = min((fit(rows.bfloat16(), 6, seed) for seed in range(8)), key=lambda run: run.inertia)
    assert len(torch.stack([truth, best.labels.long()], 1).unique(dim=0)) == 6


def test_blocks_do_not_matter(plain, monkeypatch):
    rows = plain.unit_rows(300, 8, seed=0)
    whole = fit(rows, 9, 0)
    monkeypatch.setattr("sgcl_cli.method.clusters._BLOCK_NUMBERS", 9 * 50)
    assert torch.equal(fit(rows, 9, 0).labels, whole.labels)


def test_a_bank_that_is_not_finite_is_our_bug():
    with pytest.raises(AssertionError, match="not finite"):
        fit(torch.full((20, 4), torch.nan), 3, 0)


@pytest.mark.parametrize("agreement", ["all", "any"])
def test_groups_hold_who_agrees(agreement):
    label = torch.randint(3, (80, 2), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    clusters = Clusters(label, agreement)
    phase = torch.zeros(1)
    for u in (0, 17, 79):
        found = set()
        for groups in clusters.groups:
            members = groups.members(torch.tensor([u]), 80, phase)[0].tolist()
            assert members == sorted(members)
            assert len(members) == groups.largest
            found |= set(members)
        together = all if agreement == "all" else any
        wanted = {j for j in range(80) if together(a == b for a, b in zip(label[j], label[u], strict=True))}
        assert found == wanted
        assert clusters.agree(torch.tensor(u), torch.arange(80)).nonzero()[:, 0].tolist() == sorted(wanted)


def test_thinning_keeps_equal_distances():
    groups = Groups.of(torch.tensor([0] * 10 + [1] * 2))

    def members(patch, at_most, phase=0.0):
        return groups.members(torch.tensor([patch]), at_most, torch.tensor([phase]))[0].tolist()

    assert members(3, 10) == list(range(10))
    assert members(0, 5) == [0, 2, 4, 6, 8]
    assert members(0, 5, 0.5) == [1, 3, 5, 7, 9]
    assert members(0, 3, 0.9) == [2, 6, 9]
    assert members(11, 5, 0.5) == [10, 11, 11, 11, 11]


def test_checksum_sees_one_changed_or_two_swapped_labels():
    label = torch.randint(5, (500, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    checksum = Clusters(label, "all").checksum()
    assert checksum == Clusters(label.clone(), "any").checksum()
    changed, swapped = label.clone(), label.flip(0)
    changed[250, 1] = (changed[250, 1] + 1) % 5
    assert checksum != Clusters(changed, "all").checksum()
    assert checksum != Clusters(swapped, "all").checksum()
