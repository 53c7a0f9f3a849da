from __future__ import annotations

from dataclasses import asdict, replace
from typing import get_type_hints

import pytest

from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.errors import TrainingError
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.settings import Settings

_ELSEWHERE = {"projection", "bank_start"}  # options of the objective that are no settings of its terms


def test_every_option_is_a_setting_of_the_same_name_and_type():
    options, settings = get_type_hints(ObjectiveOptions), get_type_hints(Settings)
    assert options.keys() - _ELSEWHERE == settings.keys()
    for name, kind in settings.items():
        assert options[name] in (kind, kind | None), name


@pytest.mark.parametrize(
    ("n", "epochs", "batch", "expected"),
    [
        (50, 10, 8, {"uniform_negatives": 49, "neighbours": 1, "clusters": 10, "queue": 24, "ramp_epochs": 2.0}),
        (2_000, 20, 32, {"uniform_negatives": 1_999, "neighbours": 12, "negatives": 12, "clusters": 31, "queue": 992}),
        (100_000, 100, 128, {"uniform_negatives": 65_536, "neighbours": 600, "clusters": 1_000, "queue": 49_920}),
        (681_486, 100, 128, {"uniform_negatives": 65_536, "neighbours": 4_089, "clusters": 1_000, "queue": 65_536}),
        (1_000_000, 200, 100, {"neighbours": 4_096, "queue": 65_500, "ramp_epochs": 10.0, "negatives": 4_096}),
        (6, 4, 4, {"uniform_negatives": 5, "clusters": 6, "queue": 4, "negatives": 1}),
    ],
)
def test_unset_counts_come_from_the_corpus_without_warning(n, epochs, batch, expected):
    resolved, warnings = resolve(ObjectiveOptions(), n, epochs, batch)
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert warnings == {}


def test_resolving_twice_changes_nothing():
    resolved, _ = resolve(ObjectiveOptions(), 5_000, 30, 64)
    assert resolve(ObjectiveOptions(**asdict(resolved)), 5_000, 30, 64) == (resolved, {})


@pytest.mark.parametrize(
    ("name", "value", "clamped"),
    [
        ("neighbours", 4_096, 99),
        ("clusters", 1_000, 100),
        ("uniform_negatives", 65_536, 99),
        ("queue", 65_536, 48),
        ("queue", 30, 16),
    ],
)
def test_a_value_set_by_hand_is_clamped_with_one_warning(name, value, clamped):
    resolved, warnings = resolve(ObjectiveOptions(**{name: value}), 100, 10, 16)
    assert getattr(resolved, name) == clamped
    assert [*warnings] == [name]
    assert name in warnings[name] and f"{clamped}" in warnings[name]


def test_draws_of_negatives_are_as_many_as_neighbours_and_never_clamped():
    """They are drawn with replacement, so that no number of patches bounds them."""
    assert resolve(ObjectiveOptions(neighbours=50), 3_000, 10, 16)[0].negatives == 50
    for draws in (4_096, 5_000):
        resolved, warnings = resolve(ObjectiveOptions(negatives=draws), 3_000, 10, 16)
        assert (resolved.negatives, warnings) == (draws, {})


@pytest.mark.parametrize(("n", "law", "share"), [(19_999, "uniform", 1.0), (20_000, "beta", 0.2)])
def test_the_automatic_law_is_semi_hard_from_20_000_patches_on(n, law, share):
    resolved, _ = resolve(ObjectiveOptions(negative_law="auto"), n, 10, 16)
    assert (resolved.negative_law, resolved.top_share) == (law, share)
    assert resolve(ObjectiveOptions(**asdict(resolved)), n, 10, 16)[0] == resolved
    set_by_hand, _ = resolve(ObjectiveOptions(negative_law="auto", top_share=0.5), n, 10, 16)
    assert (set_by_hand.negative_law, set_by_hand.top_share) == (law, 0.5)
    published, _ = resolve(ObjectiveOptions(negative_law="beta"), n, 10, 16)
    assert (published.negative_law, published.top_share) == ("beta", 0.2)
    with pytest.raises(AssertionError, match="the law follows"):
        replace(resolved, negative_law="auto")


def test_values_set_by_hand_stay_where_they_fit():
    given = {
        "neighbours": 7,
        "clusters": 3,
        "uniform_negatives": 20,
        "queue": 32,
        "ramp_epochs": 50.0,
        "bank_momentum": 0.25,
        "negatives": 9,
        "top_share": 0.4,
    }
    resolved, warnings = resolve(ObjectiveOptions(**given), 100, 10, 16)
    assert {name: getattr(resolved, name) for name in given} == given
    assert warnings == {}


def test_a_zero_is_a_value():
    assert resolve(ObjectiveOptions(ramp_epochs=0.0), 100, 10, 16)[0].ramp_epochs == 0


@pytest.mark.parametrize(("base", "momentum"), [("npid", 0.5), ("moco", 1.0)])
def test_momentum_of_the_banks_follows_the_base(base, momentum):
    assert resolve(ObjectiveOptions(base=base), 100, 10, 16)[0].bank_momentum == momentum


def test_one_patch_cannot_be_contrasted():
    with pytest.raises(TrainingError, match="1 patches"):
        resolve(ObjectiveOptions(), 1, 10, 16)
