from __future__ import annotations

import math

import numpy as np
import pytest

from sgcl_cli.probe.models import simpleshot


def by_loops(reference, labels, query, classes):
    dim = len(query)
    mean = [sum(row[d] for row in reference) / len(reference) for d in range(dim)]

    def unit(row):
        centred = [x - m for x, m in zip(row, mean, strict=True)]
        return [x / math.hypot(*centred) for x in centred]

    weights = []
    for c in range(classes):
        own = [unit(row) for row, label in zip(reference, labels, strict=True) if label == c]
        centre = [sum(row[d] for row in own) / len(own) for d in range(dim)]
        weights.append(math.exp(-sum((x - y) ** 2 for x, y in zip(unit(query), centre, strict=True))))
    return [weight / sum(weights) for weight in weights]


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    reference, queries = rng.normal(size=(30, 5)) + 3, rng.normal(size=(7, 5)) + 3
    labels = np.arange(30) % 3
    found = simpleshot.Centroids.fit(reference, labels, classes=3)(queries)
    expected = [by_loops(reference.tolist(), labels.tolist(), query, 3) for query in queries.tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_class_without_rows_has_probability_zero():
    found = simpleshot.Centroids.fit(np.eye(3), np.array([0, 2, 2]), classes=3)(np.eye(3))
    assert found.argmax(1).tolist() == [0, 2, 2]
    assert found[:, 1].tolist() == [0, 0, 0]
    assert found.sum(1) == pytest.approx([1, 1, 1])


def test_float16_and_a_row_at_the_mean():
    found = simpleshot.Centroids.fit(np.ones((4, 3), np.float16), np.array([0, 1, 0, 1]), classes=2)(np.ones((2, 3)))
    assert found.tolist() == [[0.5, 0.5]] * 2
