"""Cards of fitted models whose entries are missing, of another type, or larger than anything an evaluation writes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from sgcl_cli.artefacts import model_cards
from sgcl_cli.errors import ArtefactError

CARD: dict[str, Any] = {
    "format": model_cards.FORMAT,
    "result": "id",
    "level": "slide",
    "task": "binary",
    "target": "label",
    "classes": ["normal", "tumour"],
    "confidence": 0.95,
    "attention_model": "abmil",
    "features": {"dim": 6, "encoder": None},
    "folds": {"1": {"slides": ["a"], "identities": ["a"], "patients": ["p"]}},
    "scores": {"knn": {"name": "kNN", "metrics": {"auroc": {"value": 0.5, "low": None, "high": None}}}},
    "models": {
        "knn": {
            "name": "kNN",
            "view": "mean",
            "folds": {"1": [{"kind": "knn", "settings": {"k": 5, "temperature": 0.07, "classes": 2}}]},
        }
    },
}
ABSENT = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The card with another value at a place such as ``models/knn/folds/1/0/kind``."""
    card: Any = copy.deepcopy(CARD)
    *parents, last = path.split("/")
    place = card
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ABSENT:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return card


def test_a_whole_card_is_read() -> None:
    read = model_cards.checked(copy.deepcopy(CARD), Path("card.json"))
    assert read["features"] == {"dim": 6, "encoder": None, "encoder_sha256": None, "encoder_feed": None, "mpp": None}
    assert read["scores"]["knn"]["metrics"]["auroc"]["no_interval"] == ""


SETTINGS = "models/knn/folds/1/0/settings"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "sgcl.models/2", "is not a card"),
        ("features", ABSENT, "has no features"),
        ("features/dim", "6", "dim is '6'"),
        ("features/mpp", 0, "mpp is 0"),
        ("features/encoder_feed", 1.5, "encoder_feed is 1.5"),
        ("level", "region", "level is 'region'"),
        ("task", 5, "task is 5"),
        ("classes", ["a", "a"], "2 classes, or equal ones"),
        ("classes", [], "0 classes"),
        ("classes", "ab", "classes is 'ab'"),
        ("folds", [], "folds is"),
        ("folds", {}, "names no folds"),
        ("folds/1", None, "fold 1 is None"),
        ("folds/1/slides", "a", "slides is 'a'"),
        ("folds/2", CARD["folds"]["1"], "has other folds than the card"),
        ("models", {}, "names no models"),
        ("models/..", CARD["models"]["knn"], "its name begins with a dot"),
        ("models/knn/view", "bags", "one that its view does not allow"),
        ("models/knn/view", "patch", "its view is patch"),
        ("models/knn/folds/1", [], "without fitted models"),
        ("models/knn/folds/1/0", None, "is None, not a table"),
        ("models/knn/folds/1/0/kind", ABSENT, "has no kind"),
        (SETTINGS, None, "has no settings"),
        (f"{SETTINGS}/k", 0, "k is 0"),
        (f"{SETTINGS}/k", 10**24, "k is 10"),
        (f"{SETTINGS}/temperature", "warm", "temperature is 'warm'"),
        (f"{SETTINGS}/classes", 10**9, "classes is 1000000000, not 2"),
        (f"{SETTINGS}/hidden", 10**6, "hidden is 1000000"),
        (f"{SETTINGS}/target", {"mean": "x"}, "target is not of numbers"),
        ("scores/knn", ABSENT, "scores of knn is None"),
        ("scores/knn/metrics/auroc", 0.5, "auroc is 0.5"),
        ("scores/knn/metrics/auroc/value", "good", "value is 'good'"),
        ("scores/knn/metrics/auroc/low", 0.1, "an interval has one end"),
    ],
)
def test_an_entry_of_another_kind_is_named(path: str, value: object, said: str) -> None:
    with pytest.raises(ArtefactError, match=said) as caught:
        model_cards.checked(changed(path, value), Path("card.json"))
    assert caught.value.message.startswith("card.json") and caught.value.hint


@pytest.mark.parametrize("key", ["../evil", "/evil", "a\\b", "a\nb", "", "x" * 201])
def test_a_model_that_no_file_can_be_named_by_is_refused(key: str) -> None:
    card = copy.deepcopy(CARD)
    card["models"] = {key: CARD["models"]["knn"]}
    with pytest.raises(ArtefactError, match="its name "):
        model_cards.checked(card, Path("card.json"))


@pytest.mark.parametrize("other", [{"kind": "ridge", "settings": {}}, {"kind": "knn", "settings": {"model": "abmil"}}])
def test_the_folds_of_a_model_are_of_one_kind(other: dict[str, Any]) -> None:
    card = changed("models/knn/folds/1/0", CARD["models"]["knn"]["folds"]["1"][0])
    card["models"]["knn"]["folds"]["1"].append(other)
    with pytest.raises(ArtefactError, match="its folds are of several kinds"):
        model_cards.checked(card, Path("card.json"))
