"""What SGCL remembers: banks, clusters, and the state in a checkpoint."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sgcl_cli.errors import ArtefactError
from sgcl_cli.method.objective import Embedded
from tests.method.made import AXES, options


@pytest.mark.parametrize("base", ["npid", "moco"])
def test_commit_moves_each_bank_by_its_momentum(plain, base):
    case = plain.case(options(base=base), 60)
    objective, m = case.objective, 1.0 if base == "moco" else 0.5
    index = torch.tensor([4, 9, 4])
    news = [plain.unit_rows(3, 16, seed=seed) for seed in (1, 2)]
    corners = plain.unit_rows(4, 3, 16, seed=3)
    before = copy.deepcopy(objective.state_dict())
    objective.commit(index, Embedded(news[0], news[1], corners))
    pairs = [(before["bank_v"], objective.bank_v, news[0]), (before["bank_h"], objective.bank_h, news[1])]
    pairs += [(before["bank_corners"][c], objective.bank_corners[c], corners[c]) for c in range(4)]
    for old, now, new in pairs:
        for place, i in ((0, 4), (1, 9)):
            mixed = (1 - m) * old[i] + m * new[place]
            torch.testing.assert_close(now[i], mixed / mixed.norm())
        untouched = [i for i in range(60) if i not in (4, 9)]
        assert torch.equal(old[untouched], now[untouched])


@pytest.mark.parametrize("axis", ["npid", "moco", "no-inner", "plain-moco"])
def test_a_saved_state_goes_on_identically(plain, axis, tmp_path):
    case, other = (plain.case(replace(AXES[axis], neighbours=9), 120) for _ in range(2))
    other.objective.commit(other.index, other.key._replace(h=other.h, corners=other.corners.flip(1)), momentum=1.0)
    other.objective.refit(7)
    first = [
        one.objective.losses(case.index, case.query, case.key, epoch=0.5, step=0).total.item() for one in (case, other)
    ]
    assert first[0] != first[1]
    torch.save(case.objective.state_dict(), tmp_path / "state.pt")
    other.objective.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3):
        mine, theirs = (
            one.losses(case.index, case.query, case.key, epoch=0.5, step=step)
            for one in (case.objective, other.objective)
        )
        assert mine.total.item() == theirs.total.item()
        for one in (case.objective, other.objective):
            one.commit(case.index, case.query)
            assert one.refit(step) == case.objective.refit(step)


@pytest.mark.parametrize("other", [options(base="moco"), options(ranking="v"), options(clusterings=2)])
def test_a_state_of_other_settings_is_refused(plain, other):
    state = plain.case(options(), 60).objective.state_dict()
    with pytest.raises(ArtefactError, match="does not fit"):
        plain.case(other, 60).objective.load_state_dict(state)


def test_a_state_of_another_corpus_is_refused(plain):
    state = plain.case(options(), 61).objective.state_dict()
    with pytest.raises(ArtefactError, match="bank_v"):
        plain.case(options(), 60).objective.load_state_dict(state)


def test_refit_reports_and_is_repeatable(plain):
    case = plain.case(options(), 300, fitted=False)
    assert case.objective.checksum() is None
    report = case.objective.refit(1)
    assert report == case.objective.refit(1)
    assert report["checksum"] != case.objective.refit(2)["checksum"]
    assert len(report["inertia"]) == 3
    assert all(size > 0 for size in report["smallest"])
    assert case.objective.clusters.labels.unique(dim=1).shape[1] == 3
