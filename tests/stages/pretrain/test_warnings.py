from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.method.objective import Losses, Objective, WantedViews
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.progress import Silent
from sgcl_cli.stages.pretrain.warnings import TrainingWarning, WarningKind, Warnings, about_corpus, about_epoch


def _over(settings: Settings, n: int, step: float = 1.0) -> SGCL:
    cell = torch.stack([torch.arange(n) % 20, torch.arange(n) // 20], 1).double() * step
    return SGCL(settings, torch.zeros(n, dtype=torch.int64), cell, dim=8, hidden_dim=8, seed=0, device="cpu")


def _objective(step: float = 1.0, n: int = 400, **changes: Any) -> SGCL:
    return _over(resolve(ObjectiveOptions(**changes), n, 10, 8)[0], n, step)


def _of_corpus(objective: Objective) -> list[str]:
    return [warning.message for warning in about_corpus(objective)]


def _of_epoch(summary: dict[str, Any], objective: Objective, epochs: int) -> list[str]:
    return [warning.message for warning in about_epoch(summary, objective, dim=128, epochs=epochs)]


def test_a_warning_of_a_kind_and_subject_is_shown_once() -> None:
    reporter = Silent()
    warnings = Warnings(reporter)
    first, later = (TrainingWarning(WarningKind.AT_CHANCE, f"at chance: {n}", subject="self") for n in (1, 2))
    warnings.show([first, TrainingWarning(WarningKind.COLLAPSED, "at chance: 1")])
    warnings.show([later, TrainingWarning(WarningKind.AT_CHANCE, "at chance: 3", subject="inner")])
    assert warnings.messages == reporter.warnings == ["at chance: 1", "at chance: 1", "at chance: 3"]


def test_every_epoch_of_a_run_at_chance_warns_once() -> None:
    reporter, objective = Silent(), _objective()
    warnings = Warnings(reporter)
    for epoch in (5, 6, 7):
        summary = {"epoch": epoch, "loss": {"self": 9.0 - epoch / 10, "spatial": 0.1}, "spread": 0.01 * epoch / 10}
        warnings.show(about_epoch(summary, objective, dim=128, epochs=10))
    assert [message.partition(":")[0] for message in reporter.warnings] == [
        "the embeddings have collapsed",
        "the self term is at chance or above it",
    ]


def test_a_sound_corpus_gives_no_warning() -> None:
    assert _of_corpus(_objective()) == []


def test_patches_without_neighbours() -> None:
    (warning,) = _of_corpus(_objective(step=3.5))
    assert warning.startswith(
        "100 % of the patches have no neighbour within 3 patches on their slide: is the grid wrong?"
    )
    assert _of_corpus(_objective(step=3.5, radius=4.0)) == []
    assert _of_corpus(_objective(step=3.5, expansion=False)) == []
    assert _of_corpus(_objective(step=3.5, weight_spatial=0.0)) == []


def test_too_few_patches_for_the_clusters() -> None:
    (warning,) = _of_corpus(_objective(clusters=100))
    assert (
        warning.startswith("400 patches are too few for 100 clusters, 4.0 patches each") and "--clusters 6" in warning
    )
    assert _of_corpus(_objective(clusters=40)) == []
    assert _of_corpus(_objective(clusters=100, propagation=False)) == []


def _said(changes: dict[str, Any] | None = None, epochs: int = 10, **settings: Any) -> list[str]:
    """What is said of a sound epoch, the fifth of ``epochs``, with some of its means changed."""
    loss = {"self": 4.0, "spatial": 1.0, "inner": 0.0, "total": 5.0}
    sound = {"epoch": 5, "loss": loss, "spread": 0.6, "effective_rank_v": 40.0}
    sound |= {"spatial_positives": 20.0, "propagated_positives": 4.0}
    sound |= {"positive_similarity": 0.5, "negative_similarity": 0.4}
    for name, value in (changes or {}).items():
        if name in loss:
            loss[name] = value
        else:
            sound[name] = value
    resolved, _ = resolve(ObjectiveOptions(**{"negatives": 96, "negative_law": "beta", **settings}), 400, epochs, 8)
    return _of_epoch(sound, _over(resolved, 400), epochs)


def test_a_sound_epoch_gives_no_warning() -> None:
    assert _said() == [] and _said(base="moco") == []
    nothing = dict.fromkeys(["spread", "effective_rank_v", "positive_similarity", "negative_similarity"])
    assert _said({**nothing, "spatial_positives": None, "propagated_positives": None}) == []


def test_collapse_by_spread_or_by_rank() -> None:
    (spread,) = _said({"spread": 0.01})
    assert spread.startswith("the embeddings have collapsed: spread 0.010") and "effective rank 40.0" in spread
    (rank,) = _said({"effective_rank_v": 1.2})
    assert "effective rank 1.2" in rank
    assert _said({"spread": 0.05, "effective_rank_v": 12.8}) == []


@pytest.mark.parametrize(("dim", "collapsed"), [(2, 1.25), (3, 1.5), (5, 2.0), (128, 2.0)])
def test_few_dimensions_can_be_sound(dim: int, collapsed: float) -> None:
    """The effective rank is at most the number of dimensions, so that two dimensions in full use give 2."""
    for rank, warned in ((collapsed - 0.01, True), (collapsed, False)):
        summary = {"epoch": 5, "loss": {"self": 4.0, "spatial": 0.1}, "effective_rank_v": rank}
        found = [warning.kind for warning in about_epoch(summary, _objective(), dim=dim, epochs=20)]
        assert (WarningKind.COLLAPSED in found) == warned


def test_a_rank_below_a_tenth_of_the_dimensions() -> None:
    (warning,) = _said({"effective_rank_v": 12.7})
    assert warning.startswith(
        "the embeddings use few of their dimensions: after epoch 5 the effective rank of v is 12.7"
    )
    assert "under a tenth of 128" in warning and "--weight-spatial" in warning
    assert _said({"effective_rank_v": 12.8}) == []


def test_a_self_term_at_chance() -> None:
    (warning,) = _said({"self": math.log(400) - 0.24})
    assert warning.startswith("the self term is at chance or above it: 5.75 in epoch 5, where ln(400) = 5.99 means")
    assert "--lr" in warning and "--weight-spatial" in warning
    assert _said({"self": math.log(400) - 0.26}) == []
    assert len(_said({"self": 9.0})) == 1
    assert _said({"self": 9.0}, weight_self=0.0) == []
    assert "ln(81)" in _said({"self": math.log(81)}, base="moco", queue=80)[0]
    (alone,) = _said({"self": 9.0}, weight_spatial=0.0)
    assert "--weight-spatial" not in alone


def test_positives_less_alike_than_negatives() -> None:
    (warning,) = _said({"positive_similarity": 0.39})
    assert warning.startswith("positives are less alike than negatives: in epoch 5 the mean cosine of v is 0.39 with")
    assert "0.40 with the negatives drawn" in warning and "--ramp-epochs" in warning
    assert _said({"positive_similarity": 0.4}) == []
    assert _said({"positive_similarity": 0.39}, weight_spatial=0.0) == []


def test_a_spatial_term_that_is_no_lower_than_with_equal_embeddings() -> None:
    equal = math.log(1 + 96 / 24)
    (warning,) = _said({"spatial": equal + 0.001})
    assert "1.61 in epoch 5, where ln(1 + 96 / 24) = 1.61" in warning and "--weight-spatial" in warning
    assert _said({"spatial": equal - 0.001}) == []
    assert _said({"spatial": 9.0}, as_released=True) == [] and _said({"spatial": 9.0}, weight_spatial=0.0) == []


def test_easier_negatives_are_not_proposed_where_they_are_in_use() -> None:
    (warning,) = _said({"positive_similarity": 0.39})
    assert "--negative-law uniform" in warning
    (warning,) = _said({"positive_similarity": 0.39}, negative_law="auto")
    assert "--negative-law" not in warning and "fewer --negatives" in warning


def test_terms_are_judged_when_the_ramp_is_over_or_training_is() -> None:
    bad = {"self": 9.0, "spatial": 9.0, "positive_similarity": 0.0, "effective_rank_v": 5.0}
    assert len(_said(bad)) == 4
    assert _said(bad, epochs=100) == []
    assert len(_said(bad, ramp_epochs=4.0)) == 4 and _said(bad, ramp_epochs=4.1) == []
    assert len(_said(bad, epochs=5, ramp_epochs=5.0)) == 4
    assert len(_said({**bad, "spread": 0.0}, epochs=100)) == 1


def test_a_self_term_is_judged_from_half_way_on() -> None:
    assert [len(_said({"self": 9.0}, epochs=epochs)) for epochs in (10, 11)] == [1, 0]


class Other(Objective):
    """An objective of another kind, which tells each of eight patches from the others."""

    candidates = {"apart": 8}

    def __init__(self, settings: Settings) -> None:
        self.settings, self.n = settings, 400

    @classmethod
    def wanted_views(cls, settings: Settings) -> WantedViews:
        return WantedViews()

    def losses(self, *batch: Any, **when: Any) -> Losses:
        raise NotImplementedError


def test_what_is_said_of_an_objective_of_another_kind() -> None:
    other = Other(resolve(ObjectiveOptions(ramp_epochs=0.0), 400, 10, 8)[0])
    assert _of_corpus(other) == []
    summary = {"epoch": 5, "loss": {"total": 2.1, "apart": 2.1}, "spread": 0.6}
    (warning,) = _of_epoch(summary, other, 10)
    assert warning.startswith("the apart term is at chance or above it: 2.10 in epoch 5, where ln(8) = 2.08")
    assert "--weight-spatial" not in warning
    assert _of_epoch({**summary, "loss": {"total": 1.0, "apart": 1.0}}, other, 10) == []
    (few,) = _of_epoch({**summary, "loss": {"apart": 1.0}, "effective_rank_v": 5.0}, other, 10)
    assert "under a tenth of 128. Try gentler colours" in few
