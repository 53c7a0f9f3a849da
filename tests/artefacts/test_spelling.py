from __future__ import annotations

from sgcl_cli.artefacts.spelling import groups_in_quotes, in_quotes, listed, lookalikes, same_numbers


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


def test_names_of_one_number_are_grouped() -> None:
    assert same_numbers(["1", "1.0", "01", "2", "b", "a", "nan", "1a"]) == [("01", "1", "1.0")]
    assert same_numbers(["0", "1", "10"]) == []
    assert same_numbers(["12345678901234567800", "12345678901234567801", "01E0400", "11E0401", "1_000", "1000"]) == []


def test_groups_are_listed_up_to_a_number() -> None:
    groups = [("a", "A"), ("b", "B"), ("c", "C")]
    assert groups_in_quotes(groups, 3) == "'a' and 'A'; 'b' and 'B'; 'c' and 'C'"
    assert groups_in_quotes(groups, 2) == "'a' and 'A'; 'b' and 'B' and 1 more"
