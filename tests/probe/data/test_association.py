from __future__ import annotations

import numpy as np
import pytest
from scipy.stats.contingency import association

from sgcl_cli.probe.data.association import audit_sites, cramers_v
from sgcl_cli.probe.data.audit import Audit


def test_the_correction_vanishes_in_large_tables() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 20_000)
    second = np.where(rng.random(20_000) < 0.4, first, rng.integers(0, 4, 20_000))
    table = np.zeros((3, 4), dtype=int)
    np.add.at(table, (first, second), 1)
    found = cramers_v(first, second)
    assert found is not None
    assert found[0] == pytest.approx(association(table, method="cramer"), abs=1e-3)
    assert found[1] < 1e-9


def test_chance_in_small_tables_counts_as_none() -> None:
    rng = np.random.default_rng(0)
    values = [cramers_v(rng.integers(0, 2, 40), rng.integers(0, 5, 40)) for _ in range(200)]
    assert np.median([value[0] for value in values if value]) < 0.1
    assert cramers_v(np.zeros(5), np.arange(5)) is None


def test_a_patient_counts_once_and_rows_without_a_site_do_not() -> None:
    patient = np.repeat([f"p{n}" for n in range(20)], 50)
    label = np.repeat(np.arange(20) % 2, 50)
    apart, audit = np.repeat(np.array(["a", "b"])[np.arange(20) // 2 % 2], 50), Audit()
    audit_sites(label, apart, patient, audit)
    audit_sites(label, np.full(len(label), ""), patient, audit)
    assert audit.findings == []
    audit_sites(label, np.where(label == 1, "a", "b"), patient, audit)
    assert [finding.code for finding in audit.findings] == ["sites"]
