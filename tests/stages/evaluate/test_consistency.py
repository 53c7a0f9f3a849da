"""Input that could be evaluated but should not be silently: one name as two numbers, two times of a patient, equal features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.errors import ArtefactError, LabelError
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.stages.evaluate.consistency import audit_cohort
from tests.stages.evaluate.made import planned, table_of, write_table


def warnings(cohort: Cohort) -> list[str]:
    audit = Audit()
    audit_cohort(cohort, audit)
    return audit.warnings


def test_classes_and_patients_of_one_number_are_warned_of(small_cohort: Cohort) -> None:
    assert warnings(small_cohort) == []
    assert warnings(replace(small_cohort, classes=("1", "1.0"))) == [
        "classes that are the same number: '1' and '1.0'; they count as different, spell them alike"
    ]
    patients = np.array([f"{number}" for number in range(11)] + ["3.0"])
    assert warnings(replace(small_cohort, patient_id=patients)) == [
        "patients that are the same number: '3' and '3.0'; they count as different patients, so the slides of one may be on "
        "both sides of a split, spell them alike"
    ]
    assert warnings(replace(small_cohort, patient_id=patients, patients_known=False)) == []


def test_patients_with_several_times_are_warned_of(small_cohort: Cohort) -> None:
    time, event = np.repeat(np.arange(6.0) + 1, 2), np.repeat([0, 1] * 3, 2)
    survival = replace(small_cohort, classes=(), task="survival", time=time, event=event)
    assert warnings(survival) == []
    time[3], event[9] = 7.0, 1
    assert warnings(survival)[0].startswith("2 patients have slides with different times or events: 'p1', 'p4'; ")
    assert warnings(replace(survival, patients_known=False)) == []


def test_features_that_are_all_equal_are_refused(small_cohort: Cohort) -> None:
    files = [replace(file, features=np.ones((len(file), 4), np.float32)) for file in small_cohort.files]
    with pytest.raises(ArtefactError, match="the features of all patches in .* are equal") as caught:
        audit_cohort(replace(small_cohort, files=tuple(files)), Audit())
    assert "check the encoder" in (caught.value.hint or "")
    files[5] = small_cohort.files[5]
    audit_cohort(replace(small_cohort, files=tuple(files)), Audit())


def test_the_command_warns_of_them(tmp_path: Path, slides: Path) -> None:
    rows = [{**row, "label": ("1", "1.0")[row["label"] == "tumour"]} for row in table_of(40)]
    table = write_table(tmp_path / "labels.csv", rows)
    assert any("same number" in text for text in planned(tmp_path, features=str(slides), labels=str(table))[2].warnings)


def test_a_target_beyond_what_can_be_squared_is_refused(tmp_path: Path, slides: Path) -> None:
    rows = [{**row, "label": f"{number}e200"} for number, row in enumerate(table_of(40))]
    table = write_table(tmp_path / "labels.csv", rows)
    with pytest.raises(LabelError, match="the target of slide '001' is '1e200', larger than 1e.100"):
        planned(tmp_path, features=str(slides), labels=str(table))
