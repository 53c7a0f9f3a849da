from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from sgcl_cli.probe.models import nearest
from sgcl_cli.probe.models.nearest import balanced_accuracy, leave_groups_out


def _rows(seed: int = 0, count: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 6, generator=draw),
        torch.randint(3, (count,), generator=draw),
        torch.randint(5, (count,), generator=draw),
    )


@pytest.mark.parametrize("block", [7, 1024])
def test_votes_as_the_equation_says(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK", block)
    rows, label, group = _rows()
    unit = [[float(x) / math.sqrt(sum(float(y) ** 2 for y in row)) for x in row] for row in rows]
    expected = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if group[j] != group[i]]
        cosine = {j: sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for j in others}
        votes = [0.0] * 3
        for j in sorted(others, key=lambda j: -cosine[j])[:4]:
            votes[int(label[j])] += math.exp(cosine[j] / 0.1)
        expected.append(votes.index(max(votes)))
    assert leave_groups_out(rows, label, group, classes=3, k=4, temperature=0.1).tolist() == expected


def test_a_row_is_never_judged_by_its_own_slide() -> None:
    rows = torch.eye(4).repeat_interleave(2, 0)
    label = torch.arange(4).repeat_interleave(2)
    assert leave_groups_out(rows, label, torch.arange(8), classes=4, k=1).equal(label)
    alone = leave_groups_out(rows, label, label, classes=4, k=1)
    assert not alone.eq(label).any()


def test_one_group_judges_nobody() -> None:
    rows, label, _ = _rows(count=5)
    assert leave_groups_out(rows, label, torch.zeros(5, dtype=torch.int64), classes=3).tolist() == [-1] * 5


def test_few_others_are_all_that_vote() -> None:
    rows, label = torch.eye(3), torch.tensor([0, 1, 1])
    assert leave_groups_out(rows, label, torch.tensor([0, 0, 1]), classes=2, k=20).tolist() == [1, 1, 0]


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    _, label, _ = _rows(3)
    _, predicted, _ = _rows(4)
    assert balanced_accuracy(label, predicted, 5) == pytest.approx(balanced_accuracy_score(label, predicted))
