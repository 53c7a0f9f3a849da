from __future__ import annotations

import re

import numpy as np

from sgcl_cli.report import learning, survival_figures
from sgcl_cli.report.drawing import DrawnFigure
from sgcl_cli.report.survival_figures import SurvivalCurve


def said(drawn: DrawnFigure) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", drawn.svg.decode())


def group(name: str, time: list[float], survival: list[float], followed: list[float]) -> SurvivalCurve:
    held = np.array(survival)
    return SurvivalCurve(name, np.array(time), held, held * 0.8, np.minimum(1, held * 1.2), np.array(followed))


def test_survival_curves_say_their_groups_who_is_at_risk_and_p():
    high = group("high risk", [1.0, 2.0], [0.75, 0.25], [1.0, 2.0, 2.0, 3.0])
    low = group("low risk", [4.0], [0.5], [3.5, 4.0])
    words = said(survival_figures.kaplan_meier("Cox", [high, low], p=0.01234))
    assert {"high risk", "low risk", "at risk"} <= set(words)
    assert any("0.0123" in word for word in words)
    assert words.count("4") >= 1 and "2" in words


def test_a_group_without_an_event_or_without_anyone_can_be_drawn():
    survival_figures.kaplan_meier("Cox", [group("all live", [], [], [1.0, 2.0]), group("none", [], [], [])])


def test_predicted_against_measured_depends_on_the_values():
    truth = np.array([1.0, 2.0, 3.0])
    one = survival_figures.measured("Ridge", truth, truth, name="age")
    assert "age" in said(one)
    assert one.svg != survival_figures.measured("Ridge", truth, truth[::-1], name="age").svg


def test_label_efficiency_names_shares_and_models_and_skips_what_was_left_out():
    drawn = learning.label_efficiency(
        "Labels", {"probe": {0.1: [0.6, 0.7], 1.0: [0.9]}, "bag": {0.1: [], 1.0: [0.8]}}, "AUROC"
    )
    assert {"10 %", "100 %", "probe", "bag", "AUROC"} <= set(said(drawn))


def test_the_map_names_groups_and_the_variance_it_shows():
    places = np.random.default_rng(0).normal(size=(30, 2))
    drawn = learning.slide_map("Slides", places, [f"site {n % 15:02d}" for n in range(30)], (0.41, 0.2))
    words = said(drawn)
    assert "site 00" in words and "site 12" not in words and "and 3 more" in words
    assert any("41 %" in word for word in words)
    assert drawn == learning.slide_map("Slides", places, [f"site {n % 15:02d}" for n in range(30)], (0.41, 0.2))
