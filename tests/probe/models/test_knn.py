from __future__ import annotations

import math

import numpy as np
import pytest

from sgcl_cli.probe.models import knn


def by_loops(reference, labels, query, classes, k, temperature):
    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    near = sorted(((cosine(query, row), label) for row, label in zip(reference, labels, strict=True)), reverse=True)[:k]
    votes = [sum(math.exp(s / temperature) for s, label in near if label == c) for c in range(classes)]
    return [vote / sum(votes) for vote in votes]


@pytest.mark.parametrize("k", [1, 5, 20, 500])
def test_equals_the_definition(k):
    rng = np.random.default_rng(0)
    reference, queries = rng.normal(size=(50, 6)), rng.normal(size=(9, 6))
    labels = rng.integers(0, 3, size=50)
    found = knn.votes(reference, labels, queries, classes=3, ks=[k], temperature=0.07)[k]
    expected = [by_loops(reference.tolist(), labels.tolist(), q, 3, k, 0.07) for q in queries.tolist()]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(1)
    reference, queries = rng.normal(size=(40, 6)), rng.normal(size=(11, 6))
    labels = rng.integers(0, 2, size=40)
    whole = knn.votes(reference, labels, queries, classes=2, ks=[7])[7]
    monkeypatch.setattr(knn, "BLOCK", 4)
    np.testing.assert_allclose(knn.votes(reference, labels, queries, classes=2, ks=[7])[7], whole, rtol=1e-4, atol=1e-7)


def test_float16_and_rows_of_zeros():
    reference = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float16)
    found = knn.votes(reference, np.array([0, 1, 1]), reference, classes=2, ks=[3])[3]
    assert np.isfinite(found).all()
    assert found.argmax(1)[:2].tolist() == [0, 1]


def test_all_k_at_once_equal_each_alone():
    rng = np.random.default_rng(2)
    reference, queries = rng.normal(size=(60, 6)), rng.normal(size=(9, 6))
    labels = rng.integers(0, 3, size=60)
    together = knn.votes(reference, labels, queries, classes=3, ks=(1, 10, 200))
    for k, found in together.items():
        np.testing.assert_allclose(found, knn.votes(reference, labels, queries, classes=3, ks=[k])[k], atol=1e-12)


def test_k_is_chosen_on_validation_rows_only():
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 2
    features = rng.normal(size=(200, 4)) + labels[:, None]
    train, validation = np.arange(100), np.arange(100, 150)
    k, scores = knn.choose(features, labels, train, validation, classes=2)
    assert k == min(scores, key=scores.get)
    assert len(set(scores.values())) == 3, "100 and 200 both take all 100 rows"
    features[150:], labels[150:] = 1e3, 0
    assert knn.choose(features, labels, train, validation, classes=2) == (k, scores)
    assert knn.choose(features, labels, train, validation[:0], classes=2) == (20, {})
