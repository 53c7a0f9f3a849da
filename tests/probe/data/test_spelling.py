"""Warnings about names that are spelled in two ways."""

from __future__ import annotations

import pytest

from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.spelling import audit_spelling


def warned(what: str, names: list[str]) -> list[str]:
    audit = Audit()
    audit_spelling(what, names, audit)
    assert {finding.code for finding in audit.findings} <= {"spelling"}
    return audit.warnings


def test_different_names_are_passed_over() -> None:
    assert warned("classes", ["tumour", "normal", "tumour", "tumours"]) == []


def test_the_spellings_are_shown_in_quotes() -> None:
    assert warned("classes", ["tumour", "Tumour ", "normal"]) == [
        "classes that differ only in case or blanks: 'Tumour ' and 'tumour'; "
        "they count as different classes, spell them alike"
    ]


@pytest.mark.parametrize(
    ("what", "harm"),
    [
        ("patients", "they count as different patients, who may be on both sides of a split"),
        ("sites", "they count as different sites"),
    ],
)
def test_the_harm_is_that_of_the_kind_of_name(what: str, harm: str) -> None:
    (message,) = warned(what, ["a", "A"])
    assert message.startswith(f"{what} that") and harm in message


@pytest.mark.parametrize(("groups", "more"), [(3, None), (5, "; and 2 more;")])
def test_three_groups_are_shown(groups: int, more: str | None) -> None:
    (message,) = warned("sites", [name for letter in "abcde"[:groups] for name in (letter, letter.upper())])
    assert "'C' and 'c'" in message and "'D'" not in message
    assert (more in message) if more else ("more" not in message)
