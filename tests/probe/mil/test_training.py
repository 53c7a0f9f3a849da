from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from sgcl_cli.probe.mil.training import BagCohort, BagTraining, predict
from sgcl_cli.probe.models.targets import Classes, Survival

NAMES = np.array(list("abcdef"))


@pytest.fixture
def cohort(bags, labels) -> BagCohort:
    return BagCohort.of(bags, Classes(torch.from_numpy(labels), 3), NAMES)


@pytest.fixture
def model(make):
    return make("gated-abmil")


def training(model, cohort, **changes) -> BagTraining:
    arguments = {"patience": 2, "seed": 0, "train": np.array([1, 2, 4]), "validation": np.array([0, 3, 5])} | changes
    return BagTraining(model, cohort, **arguments)


def run(model, cohort, epochs=4, **changes) -> BagTraining:
    torch.manual_seed(1)
    work = training(model, cohort, **changes)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(epochs):
        work.begin_epoch(None)
        for batch in work.batches(epoch, 0):
            optimiser.zero_grad()
            work.loss(batch, None).backward()
            optimiser.step()
        work.end_epoch(None)
    return work


def test_training_stops_after_patience_and_goes_back_to_its_best_epoch(model, cohort):
    work = training(model, cohort)
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


def test_without_validation_the_last_epoch_stays(model, cohort):
    work = training(model, cohort, validation=np.array([], dtype=np.int64))
    assert [work.end_epoch(None) for _ in range(5)] == [False] * 5
    assert work.best_epoch == 5


def test_validation_without_an_event_counts_as_none(make, bags):
    target = Survival(torch.arange(6.0), torch.tensor([0, 1, 1, 0, 1, 0]))
    work = training(make("gated-abmil", outputs=1), BagCohort.of(bags, target, NAMES))
    assert not len(work.validation)


def test_epochs_are_shuffled_repeatable_and_can_begin_late(model, cohort):
    work = training(model, cohort, train=np.arange(6))
    first, second = ([batch.bags.tolist() for batch in work.batches(epoch, 0)] for epoch in (0, 1))
    assert sorted(chain.from_iterable(first)) == list(range(6))
    assert first != second
    assert [batch.bags.tolist() for batch in work.batches(0, 2)] == first[2:]


def test_training_bags_only_give_gradients(model, bags, cohort):
    work = training(model, cohort)
    bags.rows[0] = torch.nan  # a validation bag
    assert all(torch.isfinite(work.loss(batch, None)) for batch in work.batches(0, 0))


@pytest.mark.parametrize("bag_sample", [None, 3])
def test_test_labels_and_test_bags_leave_the_fit_unchanged(make, bags, labels, bag_sample):
    fitted = []
    for round_ in range(2):
        rows, changed = bags.rows.clone(), labels.copy()
        if round_:
            rows[bags.offsets[5] :] = 1e6
            changed[5] = 0
        cohort = BagCohort.of(type(bags)(rows, bags.offsets), Classes(torch.from_numpy(changed), 3), NAMES)
        model = make("gated-abmil")
        run(model, cohort, train=np.array([0, 1, 2]), validation=np.array([3, 4]), bag_sample=bag_sample)
        fitted.append(model.state_dict())
    assert all(torch.equal(fitted[0][key], fitted[1][key]) for key in fitted[0])


@pytest.mark.parametrize("bag_sample", [None, 3])
def test_fitting_and_predicting_twice_is_identical(make, cohort, bag_sample):
    found = []
    for _ in range(2):
        model = make("gated-abmil")
        run(model, cohort, bag_sample=bag_sample)
        found += [predict(model, cohort, np.array([5, 0]))[0] for _ in range(2)]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_sampled_rows_change_every_epoch_and_stay_at_validation(model, cohort):
    work = training(model, cohort, train=np.array([4]), validation=np.array([1, 4]), bag_sample=3, patience=9)
    drawn = []
    for epoch in range(2):
        (batch,) = work.batches(epoch, 0)
        drawn.append(cohort.bags.take(batch.bags, batch.draw).rows)
    assert drawn[0].shape == (3, 6)
    assert not torch.equal(*drawn)
    work.end_epoch(None)
    loss = work.best_loss
    work.best_loss = np.inf
    work.end_epoch(None)
    assert work.best_loss == loss


def test_survival_batches_hold_enough_bags_for_risk_sets(make, bags):
    target = Survival(torch.arange(6.0), torch.ones(6))
    work = training(make("gated-abmil", outputs=1), BagCohort.of(bags, target, NAMES), train=np.arange(6))
    assert [len(batch.bags) for batch in work.batches(0, 0)] == [6]


def test_predictions_are_probabilities_in_the_order_asked_for(model, cohort):
    everything, _ = predict(model, cohort, np.arange(6))
    some, _ = predict(model, cohort, np.array([4, 1]))
    np.testing.assert_allclose(everything.sum(1), 1)
    np.testing.assert_allclose(some, everything[[4, 1]], atol=1e-6)
