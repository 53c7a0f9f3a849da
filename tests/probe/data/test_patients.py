from __future__ import annotations

import pytest

from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.patients import alike, audit_patients


@pytest.mark.parametrize(
    ("slides", "groups"),
    [
        (["TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A1-A0SB-01Z-00-DX2", "TCGA-A2-A0T2-01A", "TCGA-A2-A0T2-02A"], 2),
        (["p01_a", "p01_b", "p02_a", "p02_b", "p03_a"], 2),
        (["case7-1", "case7-2", "case8-1", "case8-2"], 2),
        ([f"slide_{number:03d}" for number in range(40)], 0),
        (["her2st_B4", "her2st_C2", "her2st_C3"], 0),
        ([f"{site}_{number:03d}" for site in ("north", "south") for number in range(20)], 0),
        (["001", "002", "003"], 0),
    ],
)
def test_ids_that_look_like_several_slides_of_a_patient(slides, groups):
    assert len(alike(slides)) == groups


def test_no_patients_is_a_warning_and_more_so_where_ids_look_alike():
    audit = Audit()
    audit_patients(["a", "b"], False, audit)
    audit_patients(["p01_a", "p01_b", "p02_a", "p02_b"], False, audit)
    audit_patients(["p01_a", "p01_b", "p02_a", "p02_b"], True, audit)
    first, second = audit.warnings
    assert first.startswith("no patient_id is given") and "look like" not in first
    assert second.endswith("ids look like several slides of one patient in 2 cases, first 'p01_a', 'p01_b'")
