"""The audit: findings in order, the first error stops."""

from __future__ import annotations

import pytest

from sgcl_cli.errors import LabelError
from sgcl_cli.probe.data.audit import Audit, ledger_rows


def test_warnings_do_not_stop() -> None:
    audit = Audit()
    audit.warn("few", "few slides")
    audit.stop_on_errors()
    assert audit.warnings == ["few slides"] and audit.as_dict()["passed"] is True


def test_the_only_error_is_raised_with_its_hint() -> None:
    audit = Audit()
    audit.warn("few", "few slides")
    audit.error("leak", "a patient on both sides", "group by patient")
    with pytest.raises(LabelError) as caught:
        audit.stop_on_errors()
    assert (caught.value.message, caught.value.hint) == ("a patient on both sides", "group by patient")


def test_further_errors_are_counted() -> None:
    audit = Audit()
    for message in ("first", "second", "third"):
        audit.error("code", message)
    with pytest.raises(LabelError, match=r"^first \(2 more in audit\.json\)$"):
        audit.stop_on_errors()


def test_as_json_values() -> None:
    audit = Audit(ledger={"labelled": 3})
    audit.error("leak", "message", "hint")
    audit.warn("few", "few slides")
    assert audit.as_dict() == {
        "format": "sgcl.audit/1",
        "passed": False,
        "findings": [
            {"level": "error", "code": "leak", "message": "message", "hint": "hint"},
            {"level": "warning", "code": "few", "message": "few slides", "hint": ""},
        ],
        "ledger": {"labelled": 3},
    }


def test_the_ledger_counts_and_names_the_first_of_those_left_out():
    ledger = {"labelled": 7, "without_features": ["a", "b", "c", "d"], "empty": []}
    expected = [("labelled", 7, ""), ("without features", 4, "a, b, c …"), ("empty", 0, "")]
    assert ledger_rows(ledger) == expected
