"""What holds for every bag model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.config.evaluate import BAG_MODELS
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.models import MODELS
from sgcl_cli.probe.mil.training import BagCohort, forward, predict
from sgcl_cli.probe.models.targets import Classes, Measurements, Survival

every = pytest.mark.parametrize("name", MODELS)
SINGLES = [np.array([number]) for number in range(6)]


@every
def test_packed_equals_one_bag_at_a_time(name, bags, make):
    model = make(name)
    packed, attention = forward(model, bags, np.arange(6))
    for number, single in enumerate(SINGLES):
        alone, weight = forward(model, bags, single)
        np.testing.assert_allclose(packed[number], alone[0], atol=1e-6)
        if attention is not None:
            np.testing.assert_allclose(attention[number], weight[0], atol=1e-6)


@every
def test_packed_gradients_equal_those_of_single_bags(name, bags, make, labels):
    model = make(name).eval()
    target = Classes(torch.from_numpy(labels), 3)
    everything = torch.arange(6)
    model.loss(model(bags), bags, target, everything).backward()
    packed = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    for number, single in enumerate(SINGLES):
        bag = bags.take(single)
        (model.loss(model(bag), bag, target, everything[number : number + 1]) / 6).backward()
    assert any(gradient.abs().max() > 1e-3 for gradient in packed.values())
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(packed[key], parameter.grad, atol=1e-6, rtol=1e-5)


@every
def test_the_order_of_rows_does_not_matter_where_it_should_not(name, bags, make):
    model = make(name)
    order = torch.cat([start + torch.randperm(n) for start, n in zip(bags.offsets, bags.lengths, strict=False)])
    one, _ = forward(model, bags, np.arange(6))
    other, _ = forward(model, Bags(bags.rows[order], bags.offsets), np.arange(6))
    same = bool(torch.allclose(one, other, atol=1e-5))
    assert same == (name != "transmil"), "TransMIL alone knows positions"


@every
def test_attention_sums_to_one_and_a_bag_of_one_patch_gets_all(name, bags, make):
    _, attention = forward(make(name), bags, np.arange(6))
    if name in ("mean", "max"):
        assert attention is None
        return
    assert [weight.sum() for weight in attention] == pytest.approx([1.0] * 6, abs=1e-6)
    assert all((weight >= 0).all() for weight in attention)
    assert attention[0].tolist() == attention[3].tolist() == [1.0]


@every
def test_dropout_is_off_at_evaluation_and_on_in_training(name, bags, make):
    model = make(name)
    one, other = (forward(model, bags, np.arange(6))[0] for _ in range(2))
    assert torch.equal(one, other)
    model.train()
    assert not torch.equal(model(bags).scores, model(bags).scores)


@every
def test_standardisation_is_part_of_the_model(name, bags, make):
    model = make(name).eval()
    shifted = torch.randn(6), torch.rand(6) + 0.5
    moved = make(name).eval()
    mean, scale = bags.rows.mean(0) * shifted[1] + shifted[0], bags.rows.std(0) * shifted[1]
    moved.shift.copy_(-mean / scale)
    moved.inverse.copy_(1 / scale)
    other = Bags(bags.rows * shifted[1] + shifted[0], bags.offsets)
    torch.testing.assert_close(model(bags).scores, moved(other).scores, atol=1e-4, rtol=1e-4)


@every
@pytest.mark.parametrize("kind", ["survival", "mse"])
def test_survival_and_measurements_have_a_loss_and_a_gradient(name, kind, bags, make):
    values = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    survival = Survival(values, torch.tensor([1, 0, 1, 1, 0, 1]))
    target = survival if kind == "survival" else Measurements.fit(values, np.arange(6))
    model = make(name, outputs=target.outputs)
    model.loss(model(bags), bags, target, torch.arange(6)).backward()
    assert model.embed[0].weight.grad.abs().sum() > 0
    cohort = BagCohort.of(bags, target, np.array(list("abcdef")))
    assert predict(model, cohort, np.array([4, 1]))[0].shape == (2, 1)


def test_the_names_that_settings_and_docs_know_are_those_of_the_models():
    """``--help`` is made of BAG_MODELS."""
    assert tuple(MODELS) == BAG_MODELS
    docs = Path(__file__).parents[3] / "docs" / "evaluate.md"
    assert f"`--models {','.join(MODELS)}`" in docs.read_text()
