from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgcl_cli.probe.mil import clam
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.models.targets import Classes


def svm(s: list[float], truth: int) -> float:
    """Berrada et al. 2018, top-1 smooth SVM, by its definition: margin 1, temperature 1."""
    return math.log(sum(math.exp(s[j] - s[truth] + (0 if j == truth else 1)) for j in range(2)))


def by_loops(model, bags: Bags, labels) -> float:
    output = model(bags)
    total = 0.0
    for number, (e, s) in enumerate(
        zip(bags.split(output.inner["embedded"]), bags.split(output.inner["ranking"]), strict=True)
    ):
        order = sorted(range(len(s)), key=lambda i: -float(s[i]))
        k = max(1, min(8, len(s) // 2))
        most, least = order[:k], order[len(s) - k :] if len(s) > 1 else []
        rows = []
        for c, classify in enumerate(model.rows):
            mine = c == labels[number]
            if not mine and len(model.rows) == 2:
                continue
            pairs = [(i, int(mine)) for i in most] + [(i, 0) for i in least if mine]
            rows.append(np.mean([svm(classify(e[i]).tolist(), truth) for i, truth in pairs]))
        bag = torch.nn.functional.cross_entropy(output.scores[number], torch.tensor(labels[number])).item()
        total += 0.7 * bag + 0.3 * float(np.mean(rows))
    return total / len(bags)


@pytest.mark.parametrize("outputs", [2, 3])
def test_loss_equals_loops(bags, make, labels, outputs):
    model, labels = make("clam-sb", outputs=outputs).eval(), labels % outputs
    target = Classes(torch.from_numpy(labels), outputs)
    found = model.loss(model(bags), bags, target, torch.arange(6)).item()
    assert found == pytest.approx(by_loops(model, bags, labels.tolist()), abs=1e-5)


def test_scores_are_those_of_gated_attention(bags, make):
    one, other = make("clam-sb").eval(), make("gated-abmil").eval()
    other.load_state_dict({key: value for key, value in one.state_dict().items() if not key.startswith("rows.")})
    assert torch.equal(one(bags).scores, other(bags).scores)


def test_the_ranking_of_rows_gets_no_gradient_from_their_loss(bags, make, labels):
    model = make("clam-sb").eval()
    target = Classes(torch.from_numpy(labels), 3)
    clam_weight, clam.BAG_WEIGHT = clam.BAG_WEIGHT, 0.0
    try:
        model.loss(model(bags), bags, target, torch.arange(6)).backward()
    finally:
        clam.BAG_WEIGHT = clam_weight
    assert model.score.weight.grad is None or not model.score.weight.grad.any()
    assert model.embed[0].weight.grad.any()
