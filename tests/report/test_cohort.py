from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest

from sgcl_cli.report.cohort import Class, CohortPage, SlideCard, picture_side, render

EVIL = "[/red]<script>alert('x')</script>&\"</style>"


def card(**changes: Any) -> SlideCard:
    fields = {"slide_id": "a", "status": "done", "facts": [("Patches", "3")], "patches": 3, "mpp": 0.25}
    return SlideCard(**(fields | changes))


def page(**changes: Any) -> CohortPage:
    fields = {"title": "T", "facts": [], "warnings": [], "slides": [card()], "command": "sgcl tile", "provenance": []}
    return CohortPage(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"title": EVIL},
        {"facts": [EVIL]},
        {"warnings": [EVIL]},
        {"command": EVIL},
        {"provenance": [(EVIL, EVIL)]},
        {"classes": [Class(EVIL, "#c81e32", 3)]},
        {"slides": [card(slide_id=EVIL, picture=b"jpeg", problems=[EVIL], facts=[(EVIL, EVIL)], status="failed")]},
        {"slides": [card(classes=[Class(EVIL, "#c81e32", 3)])]},
    ],
)
def test_whatever_a_name_holds_is_shown_as_text(changes):
    text = render(page(**changes))
    assert "<script>alert" not in text and text.count("<script") == 1 and text.count("<style") == 1
    assert "&lt;script&gt;alert" in text


def test_the_policy_allows_the_page_itself_and_nothing_else():
    text = render(page(slides=[card(picture=b"jpeg")]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert " style=" not in text and not re.search(r"\son\w+=", text)
    assert re.findall(r'(?:src|href)="(\w+)', text) == ["overlays", "data"]


def test_cards_carry_what_is_sorted_by_and_empty_where_unknown():
    text = render(
        page(slides=[card(tissue_mm2=1.5, seconds=None), card(slide_id="b", status="failed", patches=None, mpp=None)])
    )
    assert 'data-status="done" data-patches="3" data-tissue="1.5" data-mpp="0.25" data-seconds=""' in text
    assert 'data-status="failed" data-patches="" data-tissue="" data-mpp="" data-seconds=""' in text
    assert re.findall(r'<option value="(\w+)">', text)[:2] == ["done", "failed"]


def test_bars_add_up_to_the_whole():
    bars = card(classes=[Class("a", "#111111", 1), Class("b", "#222222", 0), Class("c", "#333333", 3)]).bars
    assert [(bar["start"], bar["width"], bar["colour"]) for bar in bars] == [(0, 25, "#111111"), (25, 75, "#333333")]
    assert card(classes=[Class("a", "#111111", 0)]).bars == []


def test_pictures_shrink_as_the_cohort_grows():
    assert [picture_side(number) for number in (0, 1, 300, 1200, 10**6)] == [300, 300, 300, 150, 96]
