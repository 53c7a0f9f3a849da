from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.stages.evaluate.cache import Fits
from sgcl_cli.stages.evaluate.checks import check_scores
from sgcl_cli.stages.evaluate.models import FoldFit, Model
from sgcl_cli.stages.evaluate.scores import Scored, Scorer

ROWS = 48


def cohort_of(label: np.ndarray) -> Cohort:
    names = np.array([f"s{number:02d}" for number in range(ROWS)])
    files = tuple(FeatureFile(Path(f"{n}.h5"), n, np.ones((1, 2)), attributes={"id": n}) for n in names.tolist())
    return Cohort("slide", ("a", "b"), files, names, names, label, None, None, "", True, "binary", "")


def plan_of() -> Plan:
    """Three folds; the next fold validates."""
    parts = np.arange(ROWS).reshape(3, -1)
    return Plan([Fold(str(n + 1), parts[(n + 2) % 3], parts[(n + 1) % 3], parts[n]) for n in range(3)])


def told(positive: np.ndarray) -> np.ndarray:
    return np.stack([1 - positive, positive], axis=-1)


def fits(label: np.ndarray, seeds: int = 1) -> list[FoldFit]:
    rng = np.random.default_rng(0)
    made = []
    for fold in plan_of().folds:
        positive = 0.3 * label[fold.test] + 0.5 * rng.random((seeds, len(fold.test)))
        chosen = 0.3 * label[fold.validation] + 0.5 * rng.random((seeds, len(fold.validation)))
        made.append(FoldFit(told(positive), told(chosen)))
    return made


LABEL = np.arange(ROWS) % 2


def score(label: np.ndarray, found: list[FoldFit]) -> Scored:
    config = EvaluateConfig(out="o", features="f", bootstrap=50)
    return Scorer(config, cohort_of(label), plan_of()).score(Model("m", "M", lambda fold: found[0]), found)


def test_seeds_are_averaged_as_probabilities_and_their_spread_is_apart() -> None:
    found = fits(LABEL, seeds=3)
    scored = score(LABEL, found)
    np.testing.assert_allclose(scored.prediction[:16], found[0].test.mean(0))
    single = [score(LABEL, [FoldFit(f.test[[s]], f.validation[[s]]) for f in found]) for s in range(3)]
    values = [one.headlines["auroc"].value for one in single]
    assert scored.spread["auroc"].seeds == pytest.approx(np.std(values, ddof=1))
    assert single[0].spread["auroc"].seeds is None
    folds = [one.value for one in scored.headlines["auroc"].folds.values()]
    assert scored.spread["auroc"].folds == pytest.approx(np.std(folds, ddof=1))


def test_thresholds_come_from_validation_rows_alone() -> None:
    found = fits(LABEL)
    flipped = LABEL.copy()
    before = score(LABEL, found).rules
    assert [rule.name for rule in before] == ["Youden", "sensitivity 0.95"]
    validation = plan_of().folds[0].validation
    positive = found[0].validation[0, LABEL[validation] == 1, 1]
    assert before[1].values["1"] == positive.min()
    moved = [replace(fit, test=fit.test[:, ::-1] * 0.5) for fit in found]
    assert [rule.values for rule in score(flipped, moved).rules] == [rule.values for rule in before]
    low, high = (before[1].headlines["sensitivity"].low, before[1].headlines["sensitivity"].high)
    assert low <= before[1].headlines["sensitivity"].value <= high


def test_a_fold_without_validation_has_no_threshold() -> None:
    found = fits(LABEL)
    found[1] = FoldFit(found[1].test, np.empty((1, 0, 2)))
    assert [rule.values["2"] for rule in score(LABEL, found).rules] == [None, None]
    assert score(LABEL, [FoldFit(f.test, np.empty((1, 0, 2))) for f in found]).rules == []


def test_labels_that_look_inverted_and_telling_patch_counts_are_warned_about() -> None:
    good = score(LABEL, fits(LABEL))
    bad = score(1 - LABEL, fits(LABEL))
    good.key, good.name = "mean-pool", "Pool"
    count = replace(good, key="patch-count", name="Count")
    audit = Audit()
    assert check_scores([good], "binary", audit) == []
    check_scores([replace(bad, key="mean-pool")], "binary", audit)
    check_scores([count, good], "binary", audit)
    assert [finding.code for finding in audit.findings] == ["inverted", "patch_count"]
    assert "is below 0.4: are labels inverted?" in audit.warnings[0]
    good.folds["2"] = {"converged": False}
    assert check_scores([good], "binary", Audit()) == ["Pool did not converge in fold 2"]


def test_a_fit_is_taken_again_where_nothing_that_decides_it_changed(tmp_path: Path) -> None:
    plan, made = plan_of(), []

    def fit(fold: Fold) -> FoldFit:
        made.append(fold.name)
        attention = [np.full(size, 1 / size, np.float32) for size in (1, 3, 2)]
        return FoldFit(told(np.ones((2, 3))), told(np.zeros((2, 0))), {"k": 3}, attention)

    def ask(label: np.ndarray, **settings: int) -> FoldFit:
        return Fits(tmp_path, cohort_of(label)).of(Model("m", "M", fit, settings), plan.folds[0])

    first, again = ask(LABEL, k=1), ask(LABEL, k=1)
    np.testing.assert_array_equal(first.test, again.test)
    assert again.validation.shape == (2, 0, 2)
    assert [len(bag) for bag in again.attention or []] == [1, 3, 2]
    assert again.details == {"k": 3}
    reported = LABEL.copy()
    reported[plan.folds[0].test] = 1 - reported[plan.folds[0].test]
    ask(reported, k=1)
    assert len(made) == 1
    fitted = LABEL.copy()
    fitted[plan.folds[0].validation[0]] ^= 1
    ask(fitted, k=1)
    ask(LABEL, k=2)
    assert len(made) == 3
    for path in (tmp_path / ".cache").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    ask(LABEL, k=1)
    assert len(made) == 4


def test_fits_that_nobody_asked_for_are_removed(tmp_path: Path) -> None:
    store, plan = Fits(tmp_path, cohort_of(LABEL)), plan_of()
    empty = FoldFit(told(np.ones((1, 2))), told(np.zeros((1, 0))))
    for key in "ab":
        store.of(Model(key, key, lambda fold: empty), plan.folds[0])
    later = Fits(tmp_path, cohort_of(LABEL))
    later.of(Model("a", "a", lambda fold: pytest.fail("fitted again")), plan.folds[0])
    later.prune()
    assert len(list((tmp_path / ".cache").iterdir())) == 1
