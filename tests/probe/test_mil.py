from __future__ import annotations

import math
from itertools import chain

import numpy as np
import pytest
import torch

from sgcl_cli.probe import mil


@pytest.fixture
def bags() -> mil.Bags:
    lengths = torch.tensor([1, 7, 3, 1, 12, 5])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(int(lengths.sum()), 6, generator=generator)
    return mil.Bags(rows, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)))


@pytest.fixture
def model(bags) -> mil.GatedAttention:
    torch.manual_seed(0)
    return mil.GatedAttention(torch.zeros(6), torch.ones(6), classes=3, hidden=8, dropout=0.5)


def by_loops(model: mil.GatedAttention, rows: torch.Tensor):
    """Ilse et al. 2018, equations 7 and 9, in float64 for one bag."""
    model = model.double().eval()
    e = [torch.relu(model.embed[0](row)) for row in rows.double()]
    scores = [model.score(torch.tanh(model.tanh[0](x)) * torch.sigmoid(model.gate[0](x))).item() for x in e]
    total = sum(math.exp(score) for score in scores)
    a = [math.exp(score) / total for score in scores]
    return model.classify(sum(weight * x for weight, x in zip(a, e, strict=True))), a


def test_equals_the_equations(bags, model):
    logits, attention = model.eval()(bags)
    attention_of = attention.split(bags.lengths.tolist())
    for number, rows in enumerate(bags.rows.split(bags.lengths.tolist())):
        expected, weights = by_loops(model, rows)
        np.testing.assert_allclose(logits[number].detach(), expected.detach(), atol=1e-5)
        np.testing.assert_allclose(attention_of[number].detach(), weights, atol=1e-6)


def test_packed_equals_one_bag_at_a_time(bags, model):
    packed, attention = mil.predict(model, bags, np.arange(6))
    for number in range(6):
        alone, weight = mil.predict(model, bags, np.array([number]))
        np.testing.assert_allclose(packed[number], alone[0], atol=1e-6)
        np.testing.assert_allclose(attention[number], weight[0], atol=1e-6)


def test_packed_gradients_equal_those_of_single_bags(bags, model):
    model.eval()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    logits, _ = model(bags)
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for number in range(6):
        logits, _ = model(bags.take(np.array([number])))
        torch.nn.functional.cross_entropy(logits, labels[number : number + 1]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-6, rtol=1e-5)


def test_attention_sums_to_one_and_a_bag_of_one_patch_gets_all(bags, model):
    _, attention = mil.predict(model, bags, np.arange(6))
    assert [weight.sum() for weight in attention] == pytest.approx([1.0] * 6, abs=1e-6)
    assert attention[0].tolist() == attention[3].tolist() == [1.0]


def test_softmax_survives_scores_of_any_size():
    scores = torch.tensor([1e4, 1e4, -1e4, 3.0])
    weights = mil.segment_softmax(scores, torch.tensor([0, 0, 0, 1]), 2)
    assert weights.tolist() == [0.5, 0.5, 0.0, 1.0]


def test_dropout_is_off_at_evaluation_and_on_in_training(bags, model):
    one, other = (mil.predict(model, bags, np.arange(6))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    model.train()
    assert not torch.equal(model(bags)[0], model(bags)[0])


def test_batches_hold_their_limits():
    lengths = np.array([5, 5, 90, 5, 5, 5])
    found = [run.tolist() for run in mil.batches(lengths, np.arange(6), most_bags=2, most_rows=20)]
    assert found == [[0, 1], [2], [3, 4], [5]]


def test_standardisation_comes_from_the_chosen_bags_only(bags):
    mean, scale = mil.row_statistics(bags, np.array([1, 4]))
    rows = torch.cat([bags.rows[1:8], bags.rows[12:24]]).double()
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(scale, rows.std(0, correction=0))


def test_mean_pool(bags):
    pooled = mil.mean_pool(bags.rows.numpy(), bags.offsets.numpy())
    np.testing.assert_allclose(pooled[1], bags.rows[1:8].mean(0), atol=1e-6)
    np.testing.assert_allclose(pooled[3], bags.rows[11], atol=1e-6)


def training(model, bags, **changes) -> mil.Training:
    arguments = {"patience": 2, "seed": 0, "train": np.array([1, 2, 4]), "validation": np.array([0, 3, 5])} | changes
    return mil.Training(model, bags, torch.tensor([0, 1, 2, 0, 1, 2]), **arguments)


def test_training_stops_after_patience_and_goes_back_to_its_best_epoch(bags, model):
    work = training(model, bags)
    assert not work.end_epoch(None)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.classify.bias.copy_(torch.tensor([-50.0, 50.0, 0.0]))
    assert not work.end_epoch(None)
    assert work.end_epoch(None)
    assert (work.best_epoch, work.epochs) == (1, 3)
    work.restore_best()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, best[name])


def test_without_validation_the_last_epoch_stays(bags, model):
    work = training(model, bags, validation=np.array([], dtype=np.int64))
    assert [work.end_epoch(None) for _ in range(5)] == [False] * 5
    assert work.best_epoch == 5


def test_epochs_are_shuffled_repeatable_and_can_begin_late(bags, model):
    work = training(model, bags, train=np.arange(6))
    first, second = ([batch.tolist() for batch in work.batches(epoch, 0)] for epoch in (0, 1))
    assert sorted(chain.from_iterable(first)) == list(range(6))
    assert first != second
    assert [batch.tolist() for batch in work.batches(0, 2)] == first[2:]


def test_training_bags_only_give_gradients(bags, model):
    work = training(model, bags)
    bags.rows[0] = torch.nan  # a validation bag
    assert all(torch.isfinite(work.loss(batch, None)) for batch in work.batches(0, 0))
