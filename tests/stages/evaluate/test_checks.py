from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.scores.metrics import Score
from sgcl_cli.probe.scores.uncertainty import Headline
from sgcl_cli.stages.evaluate.checks import check_scores
from sgcl_cli.stages.evaluate.scores import Scored


def scored(key: str, value: float | None, metric: str = "auroc", **folds: bool) -> Scored:
    headline = Headline(metric, value, "", None, None, "", {}, Score(value, ""))
    details = {name: {"converged": converged} for name, converged in folds.items()}
    return Scored(key, key.upper(), np.empty((0, 2)), details, {metric: headline}, {})


@pytest.mark.parametrize(
    ("models", "codes"),
    [
        ([scored("linear", 0.8), scored("majority", 0.1)], []),
        ([scored("linear", 0.39)], ["inverted"]),
        ([scored("linear", 0.4)], []),
        ([scored("patch-count", 0.3), scored("linear", 0.7)], []),
        ([scored("patch-count", 0.79), scored("linear", 0.8)], ["patch_count"]),
        ([scored("patch-count", 0.77), scored("linear", 0.8)], []),
        ([scored("patch-count", 0.54), scored("linear", 0.55)], []),
        ([scored("linear", None), scored("patch-count", 0.9)], []),
    ],
)
def test_scores_that_make_a_reader_wonder(models: list[Scored], codes: list[str]) -> None:
    audit = Audit()
    said = check_scores(models, "binary", audit)
    assert [finding.code for finding in audit.findings] == codes and len(said) == len(codes)


def test_a_negative_correlation_is_not_an_inverted_label() -> None:
    assert check_scores([scored("mean-pool", -0.3, "spearman")], "regression", Audit()) == []


def test_fits_that_did_not_converge_are_named_by_fold() -> None:
    audit = Audit()
    audit.warn("earlier", "not repeated")
    assert check_scores([scored("linear", 0.8, f1=True, f2=False, f3=False)], "binary", audit) == [
        "LINEAR did not converge in fold f2, f3"
    ]
    assert len(audit.findings) == 2
