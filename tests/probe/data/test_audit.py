from __future__ import annotations

import pytest

from sgcl_cli.errors import LabelError
from sgcl_cli.probe.data.audit import Audit, ledger_rows, listed


def test_the_first_error_is_raised_and_the_others_are_counted():
    audit = Audit()
    audit.warn("a", "mind this")
    audit.stop_on_errors()
    audit.error("b", "first", "do that")
    audit.error("c", "second")
    with pytest.raises(LabelError, match=r"first \(1 more in audit.json\)") as caught:
        audit.stop_on_errors()
    assert caught.value.hint == "do that" and audit.warnings == ["mind this"]
    assert audit.as_dict()["passed"] is False


def test_the_ledger_counts_and_names_the_first_of_those_left_out():
    ledger = {"labelled": 7, "without_features": ["a", "b", "c", "d"], "empty": []}
    expected = [("labelled", 7, ""), ("without features", 4, "a, b, c …"), ("empty", 0, "")]
    assert ledger_rows(ledger) == expected


def test_names_are_quoted_and_those_left_out_are_counted():
    assert listed(["a", "b"], 2) == "'a', 'b'"
    assert listed([1, 2, 3], 2) == "'1', '2' and 1 more"
