from __future__ import annotations

import math

import pytest
import torch

from sgcl_cli.probe.models.targets import Classes


def by_loops(model, rows: torch.Tensor):
    """Li et al. 2021, equations 3 to 6, row by row, with v_i = e_i."""
    e = [torch.relu(model.embed[0](row * model.inverse + model.shift)) for row in rows]
    c = [model.rows(x).tolist() for x in e]
    q = [model.query(x).tolist() for x in e]
    classes = len(c[0])
    pooled, weights = [], []
    for k in range(classes):
        critical = max(range(len(e)), key=lambda i: c[i][k])
        s = [sum(a * b for a, b in zip(q[i], q[critical], strict=True)) / math.sqrt(len(q[i])) for i in range(len(e))]
        u = [math.exp(x) / sum(math.exp(y) for y in s) for x in s]
        weights.append(u)
        pooled.append(sum(u[i] * e[i] for i in range(len(e))))
    bag = model.classify(torch.cat(pooled)).tolist()
    highest = [max(row[k] for row in c) for k in range(classes)]
    scores = [(a + b) / 2 for a, b in zip(highest, bag, strict=True)]
    return scores, weights[max(range(classes), key=lambda k: scores[k])], highest, bag


def test_equals_the_equations(bags, make):
    model = make("dsmil").eval()
    output = model(bags)
    for number, rows in enumerate(bags.split(bags.rows)):
        scores, weight, highest, bag = by_loops(model, rows)
        assert output.scores[number].tolist() == pytest.approx(scores, abs=1e-5)
        assert bags.split(output.attention)[number].tolist() == pytest.approx(weight, abs=1e-5)
        assert output.inner["rows"][number].tolist() == pytest.approx(highest, abs=1e-5)
        assert output.inner["bag"][number].tolist() == pytest.approx(bag, abs=1e-5)


def test_both_streams_are_fitted(bags, make, labels):
    model = make("dsmil").eval()
    target = Classes(torch.from_numpy(labels), 3)
    output = model(bags)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(output.inner["rows"], target.classes) + entropy(output.inner["bag"], target.classes)) / 2
    torch.testing.assert_close(model.loss(output, bags, target, torch.arange(6)), expected)
