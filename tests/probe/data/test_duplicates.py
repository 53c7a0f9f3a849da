from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.duplicates import audit_duplicates


def slide(name: str, patient: str, features: np.ndarray) -> tuple[str, str, FeatureFile]:
    return name, patient, FeatureFile(Path(f"{name}.h5"), name, features)


def found(*extra: tuple[str, str, FeatureFile]) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    others = [slide(f"s{n}", f"p{n}", rng.normal(size=(20, 8)) + rng.normal(size=8)) for n in range(6)]
    audit = Audit()
    audit_duplicates([*others, *extra], audit)
    return [(finding.level, finding.message) for finding in audit.findings]


def test_different_slides_are_no_twins() -> None:
    assert found() == []


def test_equal_features_are_an_error_between_patients_and_a_warning_within_one() -> None:
    rows = np.random.default_rng(9).normal(size=(20, 8)) + 1
    message = "'a' and 'b' have equal features: the same slide under two names"
    assert found(slide("a", "p", rows), slide("b", "q", rows)) == [("error", message)]
    assert found(slide("a", "p", rows), slide("b", "p", rows[::-1])) == [("warning", message)]


def test_nearly_equal_features_are_a_warning() -> None:
    rows = np.random.default_rng(9).normal(size=(20, 8)) + 1
    nearly = found(slide("a", "p", rows), slide("b", "q", rows + 1e-3))
    assert nearly == [("warning", "'a' and 'b' have nearly equal features: the same slide twice?")]


@pytest.mark.parametrize(("changed", "level"), [(0.1, "error"), (0.5, "error"), (0.9, "warning"), (1.0, None)])
def test_rows_that_two_slides_share_are_found(changed: float, level: str | None) -> None:
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(40, 8)).astype(np.float16)
    other = np.concatenate([rng.normal(size=(int(40 * changed), 8)).astype(np.float16), rows[int(40 * changed) :]])
    apart = found(slide("a", "p", rows), slide("b", "q", rng.permutation(other)))
    share = round(100 * (1 - changed))
    assert [(kind, f"share {share} % of the rows" in text) for kind, text in apart] == (
        [(level, True)] if level else []
    )
    within = found(slide("a", "p", rows), slide("b", "p", other))
    assert [kind for kind, _ in within] == (["warning"] if level else []), "twins of one patient are no error"


def test_empty_glass_is_no_twin() -> None:
    rng = np.random.default_rng(1)
    blank = np.zeros((10, 8))
    slides = [slide(f"g{n}", f"q{n}", np.concatenate([blank, rng.normal(size=(10, 8)) + 3 * n])) for n in range(4)]
    assert found(*slides) == []
