from __future__ import annotations

import numpy as np
import torch

from sgcl_cli.probe.models.linear_sgd import BATCH, Training

CPU = torch.device("cpu")


def rows(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes on a line of features with an offset and a scale of their own."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 3
    features = rng.normal(size=(count, 5))
    features[np.arange(count), label] += 4
    return 50 + 20 * features, label


def trained(work: Training, epochs: int = 20, lr: float = 0.03) -> Training:
    optimiser = torch.optim.SGD(work.model.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        for batch in work.batches(epoch, 0):
            optimiser.zero_grad()
            work.loss(batch, None).backward()
            optimiser.step()
    return work


def test_it_tells_classes_apart_and_says_probabilities() -> None:
    features, label = rows()
    work = trained(Training(features, label, np.arange(200), classes=3, seed=0, device=CPU))
    told = work.predict(features[200:])
    np.testing.assert_allclose(told.sum(1), 1)
    assert (told.argmax(1) == label[200:]).mean() > 0.95


def test_rows_that_are_not_fitted_on_decide_nothing() -> None:
    features, label = rows()
    known = np.arange(100)
    first = trained(Training(features, label, known, classes=3, seed=0, device=CPU)).predict(features[:5])
    features[100:] *= -7
    label[100:] = 0
    second = trained(Training(features, label, known, classes=3, seed=0, device=CPU)).predict(features[:5])
    np.testing.assert_array_equal(first, second)


def test_an_epoch_is_every_row_once_in_an_order_of_the_seed() -> None:
    features, label = rows()
    work = Training(features, label, np.arange(300), classes=3, seed=1, device=CPU)
    batches = list(work.batches(0, 0))
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 300 - 2 * BATCH] and work.steps == 3
    assert sorted(torch.cat(batches).tolist()) == list(range(300))
    assert torch.equal(torch.cat(list(work.batches(0, 1))), torch.cat(batches[1:]))
    assert not torch.equal(next(work.batches(1, 0)), batches[0])
