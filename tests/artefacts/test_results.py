"""What a stage returns and leaves as a record."""

from __future__ import annotations

import csv
import json
import platform
from pathlib import Path

import numpy
import pytest

from sgcl_cli.artefacts.results import Failure, Outcome, RunRecord, check_free, read_run, versions, write_failures
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import ArtefactError, ConfigError


def test_an_outcome_as_json_values() -> None:
    outcome = Outcome("tile", Path("out"), [("slides", "2")], 2, [Failure("a", "x/a.svs", "cut off", "copy it")])
    outcome.warnings.append("few")
    outcome.data["patches"] = 5
    assert outcome.as_dict() == {
        "stage": "tile",
        "out": "out",
        "failures": [{"slide_id": "a", "path": "x/a.svs", "reason": "cut off", "hint": "copy it"}],
        "warnings": ["few"],
        "patches": 5,
    }


def test_a_record_is_read_back(tmp_path: Path) -> None:
    config = TileConfig(slides=("x",), out=str(tmp_path), mpp=0.25)
    outcome = Outcome("tile", tmp_path, [])
    RunRecord("tile", config).write(tmp_path, artefact="abc", inputs={"slides": "def"}, outcome=outcome, count=3)
    run = read_run(tmp_path)
    assert (run["format"], run["stage"], run["id"], run["count"]) == ("sgcl.run/1", "tile", "abc", 3)
    assert run["inputs"] == {"slides": "def"} and run["result"] == json.loads(json.dumps(outcome.as_dict()))
    assert run["config"]["mpp"] == 0.25 and run["affecting"]["mpp"] == 0.25 and "out" not in run["affecting"]
    assert run["peak_memory_mib"]["process"] > 1 and 0 <= run["seconds"] < 600


def test_versions() -> None:
    found = versions()
    assert found["python"] == platform.python_version() and found["numpy"] == numpy.__version__


def test_a_free_folder_or_its_own_result(tmp_path: Path) -> None:
    check_free(tmp_path / "absent", "tile")
    (tmp_path / "run.json").write_text('{"stage": "tile"}')
    check_free(tmp_path, "tile")
    with pytest.raises(ConfigError, match="holds the output of sgcl tile") as caught:
        check_free(tmp_path, "embed")
    assert caught.value.hint == "choose another --out"


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file") as caught:
        check_free(tmp_path / "file", "tile")
    assert caught.value.hint == "give a folder"


def test_a_record_of_other_types_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"stage": "tile", "inputs": []}')
    with pytest.raises(ArtefactError, match=r"run\.json: inputs is \[\], not a table"):
        read_run(tmp_path)


def test_failures_as_a_table(tmp_path: Path) -> None:
    write_failures(tmp_path, [])
    assert (tmp_path / "failures.csv").read_text() == "slide_id,path,reason,hint\n"
    write_failures(tmp_path, [Failure("a", "a,b.svs", "cut off")])
    with (tmp_path / "failures.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["a", "a,b.svs", "cut off", ""]]
