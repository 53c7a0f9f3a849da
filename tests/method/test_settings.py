from __future__ import annotations

from dataclasses import replace

import pytest

from sgcl_cli.errors import ConfigError, TrainingError
from sgcl_cli.method.settings import Settings, require_resolved, share_of


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
    resolved, warnings = Settings().resolve(n, epochs, batch)
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert warnings == []


def test_resolving_twice_changes_nothing():
    resolved, _ = Settings().resolve(5_000, 30, 64)
    assert resolved.resolve(5_000, 30, 64) == (resolved, [])


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
    resolved, warnings = Settings(**{name: value}).resolve(100, 10, 16)
    assert getattr(resolved, name) == clamped
    assert len(warnings) == 1
    assert name in warnings[0]
    assert f"{clamped}" in warnings[0]


def test_draws_of_negatives_are_as_many_as_neighbours_and_never_clamped():
    """They are drawn with replacement, so that no number of patches bounds them."""
    assert Settings(neighbours=50).resolve(3_000, 10, 16)[0].negatives == 50
    for draws in (4_096, 5_000):
        resolved, warnings = Settings(negatives=draws).resolve(3_000, 10, 16)
        assert (resolved.negatives, warnings) == (draws, [])


@pytest.mark.parametrize(("n", "law", "share"), [(19_999, "uniform", 1.0), (20_000, "beta", 0.2)])
def test_the_automatic_law_is_semi_hard_from_20_000_patches_on(n, law, share):
    resolved, _ = Settings(negative_law="auto").resolve(n, 10, 16)
    assert (resolved.negative_law, resolved.top_share) == (law, share)
    assert resolved.resolve(n, 10, 16)[0] == resolved
    set_by_hand, _ = Settings(negative_law="auto", top_share=0.5).resolve(n, 10, 16)
    assert (set_by_hand.negative_law, set_by_hand.top_share) == (law, 0.5)
    published, _ = Settings(negative_law="beta").resolve(n, 10, 16)
    assert (published.negative_law, published.top_share) == ("beta", 0.2)
    with pytest.raises(AssertionError, match="resolved first"):
        require_resolved(replace(resolved, negative_law="auto"))


def test_values_set_by_hand_stay_where_they_fit():
    settings = Settings(
        neighbours=7,
        clusters=3,
        uniform_negatives=20,
        queue=32,
        ramp_epochs=50.0,
        bank_momentum=0.25,
        negatives=9,
        top_share=0.4,
    )
    resolved, warnings = settings.resolve(100, 10, 16)
    assert resolved == settings
    assert warnings == []


@pytest.mark.parametrize(("base", "momentum"), [("npid", 0.5), ("moco", 1.0)])
def test_momentum_of_the_banks_follows_the_base(base, momentum):
    assert Settings(base=base).resolve(100, 10, 16)[0].bank_momentum == momentum


@pytest.mark.parametrize(
    "change",
    [
        {"base": "simclr"},
        {"agreement": "most"},
        {"negative_law": "normal"},
        {"ranking": "x"},
        {"bank_dtype": "float16"},
        {"temperature": 0.0},
        {"spatial_temperature": float("nan")},
        {"radius": -1.0},
        {"top_share": 1.5},
        {"top_share": 0.0},
        {"bank_momentum": 0.0},
        {"key_momentum": 2.0},
        {"weight_spatial": -1.0},
        {"ramp_epochs": -1.0},
        {"neighbours": 0},
        {"auxiliary": -1},
    ],
)
def test_a_value_without_meaning_is_refused_by_name(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Settings(**change)


def test_one_patch_cannot_be_contrasted():
    with pytest.raises(TrainingError, match="1 patches"):
        Settings().resolve(1, 10, 16)


@pytest.mark.parametrize(
    ("share", "n", "expected"), [(0.2, 50, 10), (0.29, 100, 29), (0.2, 9, 1), (0.1, 3, 1), (1, 7, 7)]
)
def test_share_is_a_floor_that_rounding_does_not_lower(share, n, expected):
    assert share_of(share, n) == expected
