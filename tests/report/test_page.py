from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re

import pytest

from sgcl_cli.report.page import Page, Picture, Section, Table, line, render

METRICS = ("auroc", "accuracy")
EVIL = "[/red]<script>alert('x')</script>&\"</style>"


def entry(value=0.9, low=0.8, high=0.95, reason="", no_interval=""):
    return {"value": value, "low": low, "high": high, "reason": reason, "no_interval": no_interval}


def example(**changes) -> Page:
    fields = {
        "title": "How well?",
        "facts": ["20 slides"],
        "inferred": [("Level", "slide", "the table says so")],
        "models": {"Model": dict.fromkeys(METRICS, entry())},
        "confidence": 0.95,
        "folds": 5,
        "warnings": [],
        "methods": ["A method."],
        "command": "sgcl evaluate features",
        "provenance": [("Result", "abc")],
        "data": {"value": 1.5},
    }
    return Page(**(fields | changes))


class Parsed(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize(
    "page",
    [
        example(title=EVIL),
        example(facts=[EVIL]),
        example(inferred=[(EVIL, EVIL, EVIL)]),
        example(models={EVIL: dict.fromkeys(METRICS, entry(None, None, None, EVIL))}),
        example(models={"M": dict.fromkeys(METRICS, entry(0.9, None, None, "", EVIL))}),
        example(warnings=[EVIL]),
        example(methods=[EVIL]),
        example(command=EVIL),
        example(provenance=[(EVIL, EVIL)]),
        example(sections=[Section(EVIL, tables=[Table(EVIL, [EVIL], [[EVIL]], EVIL)], notes=[EVIL])]),
        example(sections=[Section("s", [Picture(EVIL, EVIL, b"png")])]),
        example(kicker=EVIL),
        example(models={"M": {EVIL: entry()}}),
        example(data={EVIL: EVIL}),
    ],
)
def test_whatever_a_name_holds_is_shown_as_text(page):
    text = render(page)
    parsed = Parsed(text)
    assert parsed.all("script") == [{"type": "application/json", "id": "metrics"}]
    assert len(parsed.all("style")) == 1
    assert "<script>alert" not in text
    if page.data == {EVIL: EVIL}:
        assert json.loads(text.split('id="metrics">')[1].split("</script>")[0]) == {EVIL: EVIL}
    else:
        assert "[/red]<script>alert('x')</script>" in parsed.text


def test_the_policy_allows_the_own_style_and_nothing_from_outside():
    text = render(example(sections=[Section("s", [Picture("t", "c", b"png")])]))
    parsed = Parsed(text)
    policy = next(m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"https?://|//[a-z]|url\(|@import", text)
    assert not any("style" in attributes for _, attributes in parsed.tags)
    assert [image["src"] for image in parsed.all("img")] == ["data:image/png;base64,cG5n"]


def test_numbers_and_intervals():
    text = Parsed(render(example())).text
    assert "0.900" in text
    assert "0.800 to 0.950" in text
    assert "intervals are conditional on the fitted models" in text


def test_undefined_numbers_are_dashes_with_their_reason():
    models = {"Model": dict.fromkeys(METRICS, entry()) | {"auroc": entry(None, None, None, "only class 'a'")}}
    text = Parsed(render(example(models=models))).text
    assert "– AUROC, Model: only class 'a'." in text


def test_missing_intervals_say_why():
    models = {"Model": dict.fromkeys(METRICS, entry(0.9, None, None, "", "3 patients, fewer than 10"))}
    text = Parsed(render(example(models=models))).text
    assert "No intervals: 3 patients, fewer than 10." in text
    assert "conditional" not in text


def test_spread_and_pooled_stand_beside_the_headline():
    told = entry() | {"spread": {"folds": 0.0412, "seeds": None}, "pooled": {"value": 0.8765, "reason": ""}}
    text = Parsed(render(example(models={"M": {"auroc": told}}))).text
    assert "folds ± 0.041" in text and "seeds ± 0" not in text and "pooled 0.876" in text
    assert "pooled 0.876" not in Parsed(render(example(models={"M": {"auroc": told}}, folds=1))).text


def test_each_metric_has_its_own_line():
    assert line("auroc", entry(0.5, 0.25, 1.0)) == {"middle": 60.0, "dot": 60.0, "low": 33.0, "high": 114.0}
    assert line("spearman", entry(0.0, None, None)) == {"middle": 60.0, "dot": 60.0}
    assert line("r2", entry(-7.0, None, None)) == {"middle": 60.0, "dot": 6.0}
    assert line("mae", entry()) is None and line("auroc", entry(None)) is None


def test_columns_of_numbers_are_known_by_their_first_number():
    table = Table("t", ["a", "b"], [["x", None], ["y", 2.0]])
    assert table.numeric == [False, True]
    assert '<td class="figure">–</td>' in render(example(sections=[Section("s", tables=[table])]))


def test_sections_without_content_are_left_out():
    text = Parsed(render(example(sections=[Section("Nothing here"), Section("Here", notes=["a word"])]))).text
    assert "Nothing here" not in text and "a word" in text


def test_pictures_are_jpeg_or_png_with_svg_beside():
    jpeg = Picture("t", "c", b"\xff\xd8rest")
    assert jpeg.uri.startswith("data:image/jpeg;") and list(jpeg.files("a")) == ["a.jpg"]
    assert Picture("t", "c", b"\x89PNG", b"<svg/>").files("a") == {"a.png": b"\x89PNG", "a.svg": b"<svg/>"}


def test_the_same_content_gives_the_same_bytes():
    assert render(example()) == render(example())


def test_values_of_patients_are_announced_only_where_they_are() -> None:
    models = {"Model": dict.fromkeys(METRICS, entry(low=None, high=None, no_interval="3 patients"))}
    assert "No intervals: 3 patients. The values of each patient are below." in render(
        example(models=models, patients=True)
    )
    assert "of each patient" not in render(example(models=models))


def test_a_legend_shows_each_class_beside_its_colour() -> None:
    found = Parsed(
        render(example(sections=[Section("Maps", notes=["n"], classes=[("a<b", "#00eeee"), ("c", "#ffcc00")])]))
    )
    assert [one["fill"] for one in found.all("rect")] == ["#00eeee", "#ffcc00"]
    assert "a<b" in found.text and not Parsed(render(example(sections=[Section("Maps", notes=["n"])]))).all("rect")


def test_a_column_without_any_number_is_set_like_one_of_numbers() -> None:
    assert Table("t", ["name", "± folds", "n"], [["a", None, None], ["b", None, 2]]).numeric == [False, True, True]


def test_print_has_a_light_page_and_opens_what_is_folded() -> None:
    style = re.search("<style>(.*)</style>", render(example()), re.DOTALL)
    assert style is not None
    printed = style[1][style[1].index("@media print") :]
    assert "color-scheme: light" in printed and "--page: #fff" in printed
    assert "details::details-content { content-visibility: visible; block-size: auto; }" in printed
    assert style[1].index("@media (prefers-color-scheme: dark)") < style[1].index("@media print")
