from __future__ import annotations

import re

import numpy as np
import pytest

from sgcl_cli.report.drawing import PALETTE, DrawnFigure
from sgcl_cli.report.learning import label_efficiency, slide_map

CURVES = {"linear": {0.1: [0.6, 0.7], 1.0: [0.9]}, "knn": {0.25: [0.5, 0.55, 0.6], 1.0: [0.8]}}


def words(drawn: DrawnFigure) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", drawn.svg.decode())


def test_label_efficiency_names_the_shares_of_all_models_and_the_models() -> None:
    said = words(label_efficiency("Labels", CURVES, "AUROC"))
    assert [text for text in said if text.endswith("%")] == ["10 %", "25 %", "100 %"]
    assert {"linear", "knn", "AUROC", "Labels"} <= set(said)


def test_every_repeat_is_a_dot() -> None:
    def dots(curves: dict[str, dict[float, list[float]]]) -> int:
        return label_efficiency("Labels", curves, "AUROC").svg.count(b"<use ")

    more = {**CURVES, "linear": {0.1: [0.6, 0.7, 0.65, 0.64], 1.0: [0.9]}}
    assert dots(more) - dots(CURVES) == 2


def test_a_share_without_repeats_is_passed_over() -> None:
    said = words(label_efficiency("Labels", {"linear": {0.1: [], 1.0: [0.9]}}, "AUROC"))
    assert "10 %" in said and "nan" not in said


def test_slide_map_states_the_variance_of_each_component() -> None:
    places = np.random.default_rng(0).normal(size=(6, 2))
    drawn = slide_map("Slides", places, ["a", "b"] * 3, (0.416, 0.2))
    said = words(drawn)
    assert {"component 1 (42 % of the variance)", "component 2 (20 %)", "a", "b"} <= set(said)
    assert all(colour in drawn.svg.decode() for colour in PALETTE[:2]) and PALETTE[2] not in drawn.svg.decode()


@pytest.mark.parametrize(("groups", "more"), [(12, None), (15, "and 3 more")])
def test_slide_map_names_twelve_groups(groups: int, more: str | None) -> None:
    names = [f"site {number:02}" for number in range(groups)]
    said = words(slide_map("Slides", np.arange(2.0 * groups).reshape(-1, 2), names, (0.5, 0.2)))
    assert [text for text in said if text.startswith("site")] == names[:12]
    assert [text for text in said if text.startswith("and")] == ([more] if more else [])
