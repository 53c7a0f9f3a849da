from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report.drawing import ACCENT, MUTED, DrawnFigure
from sgcl_cli.report.forest import ForestRow, forest

CERTAIN = ForestRow("linear", 0.2, 0.1, 0.3, significant=True)
UNCERTAIN = ForestRow("knn", 0.05, -0.1, 0.2)


def size(drawn: DrawnFigure) -> tuple[int, int]:
    with Image.open(io.BytesIO(drawn.png)) as image:
        return image.size


def words(drawn: DrawnFigure) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", drawn.svg.decode())


def test_rows_are_named_from_the_top() -> None:
    drawn = forest("Difference", [CERTAIN, UNCERTAIN], "AUROC")
    svg = drawn.svg.decode()
    heights = [
        float(re.findall(rf"<!-- {name} -->\s*<g [^>]*translate\(\S+ (\S+)\)", svg)[0]) for name in ("linear", "knn")
    ]
    assert heights[0] < heights[1]
    assert {"Difference", "AUROC"} <= set(words(drawn))


@pytest.mark.parametrize(("row", "shown", "absent"), [(CERTAIN, ACCENT, MUTED), (UNCERTAIN, MUTED, ACCENT)])
def test_only_what_chance_does_not_explain_is_in_colour(row: ForestRow, shown: str, absent: str) -> None:
    marks = re.findall(r"<use [^>]*style=\"fill: (#\w+); stroke: \1\"", forest("Title", [row], "AUROC").svg.decode())
    assert shown in marks and absent not in marks


def test_a_value_without_an_interval_is_hollow() -> None:
    def marks(row: ForestRow) -> list[str]:
        return re.findall(r"style=\"fill: (#\w+); stroke: " + MUTED + '"', forest("Title", [row], "AUROC").svg.decode())

    assert (marks(ForestRow("knn", 0.5)), marks(ForestRow("knn", 0.5, 0.4, 0.6))) == (["#ffffff"], [MUTED])


def test_the_middle_of_the_axis_is_chance() -> None:
    with_chance = forest("Title", [ForestRow("knn", 0.7, 0.6, 0.8)], "AUROC", middle=0.5)
    labels = [float(text) for text in words(with_chance) if re.fullmatch(r"0\.\d+", text)]
    assert min(labels) < 0.3 and max(labels) > 0.7 and np.mean(labels) == pytest.approx(0.5)
    free = forest("Title", [ForestRow("knn", 0.7, 0.6, 0.8)], "AUROC", middle=None)
    assert min(float(text) for text in words(free) if re.fullmatch(r"0\.\d+", text)) > 0.5


def test_rows_add_height_up_to_a_limit() -> None:
    heights = [size(forest("Title", [UNCERTAIN] * count, "AUROC"))[1] for count in (1, 6, 32)]
    assert heights[1] - heights[0] == pytest.approx(5 * 0.34 * 160, abs=1)
    assert heights[2] == 12 * 160
