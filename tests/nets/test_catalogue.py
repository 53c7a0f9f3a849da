"""The table of named encoders: what ``sgcl encoders`` says of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgcl_cli.cli.app import run
from sgcl_cli.nets.catalogue import CATALOGUE, availability


def test_the_list_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgcl_cli.nets.catalogue.find_spec", lambda name: None if name == "timm" else name)
    assert run(["encoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"\s\s+", line)[0] for line in lines] == ["name", *CATALOGUE]
    assert next(line for line in lines if line.startswith("uni2")).endswith("needs pip install 'sgcl[timm]'")


def test_weights_that_lie_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sgcl_cli.nets.catalogue.find_spec", lambda name: name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert availability(CATALOGUE["uni"]) == "yes, weights are fetched from the hub after you agreed to its terms"
    (tmp_path / "models--MahmoodLab--UNI").mkdir()
    assert availability(CATALOGUE["uni"]) == "yes, its weights are in the hub's cache"
    assert "--weights" in availability(CATALOGUE["gpfm"])
