"""What models of slides say of single patches: the equations that tie it to the slide's score, and how it is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.probe import fitted
from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.models import build
from sgcl_cli.probe.models import linear
from sgcl_cli.probe.models.targets import Classes, Survival
from sgcl_cli.stages.evaluate import patch_scores

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(11, 5)).astype(np.float32)


def log_odds(probability: np.ndarray) -> np.ndarray:
    return np.log(probability[:, 1:] / probability[:, :1])


@pytest.mark.parametrize("name", ["abmil", "gated-abmil", "clam-sb"])
def test_a_slides_score_is_the_attention_weighted_mean_of_its_patches_scores(name):
    torch.manual_seed(0)
    model = build(name, torch.zeros(5), torch.ones(5), outputs=3, hidden=8, dropout=0.5)
    kept = fitted.of_bags(model, Classes(torch.tensor([0, 1, 2]), 3), name=name, hidden=8, dropout=0.5)
    of_slide, (attention,) = fitted.predict_bags(kept, Bags(torch.from_numpy(FEATURES), torch.tensor([0, 11])))
    of_patches = patch_scores.mean_of_seeds([kept], FEATURES, CPU)
    assert of_patches.shape == (11, 3)
    np.testing.assert_allclose(attention @ log_odds(of_patches), log_odds(of_slide)[0], atol=1e-5)


def test_the_score_of_a_linear_model_of_the_mean_is_the_mean_of_its_patches_scores():
    rows, labels = RNG.normal(size=(20, 5)), np.arange(20) % 2
    rows[:, 0] += labels
    probe = linear.fit(rows, labels, np.arange(16), np.arange(16, 20), classes=2, path=(1.0,))
    kept = fitted.logistic(probe)
    of_patches = patch_scores.mean_of_seeds([kept], FEATURES, CPU)
    of_slide = probe(FEATURES.mean(0, dtype=np.float64)[None])
    np.testing.assert_allclose(log_odds(of_patches).mean(0), log_odds(of_slide)[0], atol=1e-6)


def test_risks_of_patches_are_weighted_like_those_of_classes():
    torch.manual_seed(0)
    model = build("gated-abmil", torch.zeros(5), torch.ones(5), outputs=1, hidden=8, dropout=0.5)
    target = Survival(torch.tensor([1.0, 2.0]), torch.tensor([1, 1]))
    kept = fitted.of_bags(model, target, name="gated-abmil", hidden=8, dropout=0.5)
    of_slide, (attention,) = fitted.predict_bags(kept, Bags(torch.from_numpy(FEATURES), torch.tensor([0, 11])))
    np.testing.assert_allclose(attention @ patch_scores.mean_of_seeds([kept], FEATURES, CPU), of_slide[0], atol=1e-5)


def test_the_model_with_attention_scores_patches_and_where_positions_matter_a_linear_one_does():
    kinds = {
        "patch-count": ("logistic", {}, "count"),
        "mean-pool": ("logistic", {}, "mean"),
        "abmil": ("bags", {"model": "abmil"}, "bags"),
        "transmil": ("bags", {"model": "transmil"}, "bags"),
    }
    assert patch_scores.model_of(kinds, "abmil") == "abmil"
    assert patch_scores.model_of(kinds, "transmil") == "mean-pool"
    assert patch_scores.model_of({"patch-count": kinds["patch-count"]}, None) is None


def shown(scores, task="binary", classes=("a", "b"), called=None, groups=None):
    return patch_scores.shown(scores, task=task, classes=classes, called=called or {}, groups=groups or {})


def test_of_two_classes_the_second_is_shown_and_of_more_the_predicted_one():
    two = shown({"s": np.array([[0.9, 0.1], [0.2, 0.8]])})["s"]
    assert two.values.tolist() == [0.1, 0.8]
    assert (two.scale.low, two.scale.middle, two.scale.high) == (0.0, 0.5, 1.0)
    three = shown({"s": np.array([[0.5, 0.2, 0.3]])}, "multiclass", ("a", "b", "c\u00e4"), {"s": 2})["s"]
    assert three.values.tolist() == [0.3]
    assert (three.scale.middle, three.scale.meaning) == (pytest.approx(1 / 3), "probability of c?")


def test_risks_of_two_folds_have_scales_of_their_own():
    scores = {"s": np.array([[0.0], [1.0], [2.0]]), "t": np.array([[3.0]]), "u": np.array([[7.0]])}
    found = shown(scores, "survival", (), groups={"s": "1", "t": "1", "u": "2"})
    assert [*found] == ["s", "t", "u"]
    assert found["s"].scale == found["t"].scale
    assert (found["s"].scale.middle, found["u"].scale.middle) == (1.5, 7.0)
    assert found["s"].scale.low < 0.1 and found["s"].scale.high > 2.9
    assert found["u"].scale.low < 7.0 < found["u"].scale.high, "one value still makes a scale"
    assert found["s"].scale.meaning.startswith("log risk")
