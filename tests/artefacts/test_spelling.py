from __future__ import annotations

from sgcl_cli.artefacts.spelling import in_quotes, listed, lookalikes


def test_names_that_differ_only_in_case_blanks_or_encoding_are_grouped():
    names = ["Tumor", "tumor", "Tumor ", "stroma", "B  cell", "b cell", "tumour", "tum\u00f6r", "tumo\u0308r"]
    assert lookalikes(names) == [("B  cell", "b cell"), ("Tumor", "Tumor ", "tumor"), ("tumo\u0308r", "tum\u00f6r")]
    assert lookalikes(["a", "a", "b", "B1"]) == lookalikes([]) == []


def test_blanks_show():
    assert in_quotes(("Tumor", "Tumor ")) == "'Tumor' and 'Tumor '"


def test_long_lists_of_names_are_cut():
    assert listed(["a", "b"], 2) == "'a', 'b'"
    assert listed([1, 2, 3], 2) == "'1', '2' and 1 more"
    assert listed(["a", "b", "c"], 1, quoted=False) == "a and 2 more"
    assert listed([], 3) == ""
