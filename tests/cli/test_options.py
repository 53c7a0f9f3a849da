"""Options made from settings."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sgcl_cli.cli.options import COMMON, as_toml, common_rows, options_of, repeated
from sgcl_cli.config import TileConfig


@pytest.fixture
def call():
    """Runs a command line, and returns what the body was given and the result."""
    given: list[tuple[dict[str, Any], dict[str, Any]]] = []
    app = typer.Typer()
    app.command()(options_of(TileConfig, lambda *both: given.append(both), lambda: print("all options")))

    def call(*arguments: str):
        given.clear()
        result = CliRunner().invoke(app, arguments)
        return list(given), result

    return call


def test_only_what_was_given_arrives(call) -> None:
    ((common, settings),), _ = call("a.svs", "b.svs", "--mpp", "0.25", "--no-coords-only", "--quiet")
    assert {name: value for name, value in settings.items() if name != "slides"} == {"mpp": 0.25, "coords_only": False}
    assert list(settings["slides"]) == ["a.svs", "b.svs"]
    assert common == {"config": None, "print_config": False, "json": False, "quiet": True} and set(common) == {*COMMON}


@pytest.mark.parametrize("arguments", [("--absent", "1"), ("--mpp", "coarse"), ("--tissue", "blue")])
def test_what_is_no_option_or_value_is_refused(call, arguments: tuple[str, ...]) -> None:
    given, result = call(*arguments)
    assert given == [] and result.exit_code == 2


def test_help_all_stops(call) -> None:
    given, result = call("--help-all", "--mpp", "1")
    assert given == [] and result.exit_code == 0 and result.output == "all options\n"


def test_common_rows_name_the_table() -> None:
    rows = common_rows(TileConfig)
    assert [row.term for row in rows] == [
        "--config FILE",
        "--print-config",
        "--json",
        "--quiet",
        "--help, --help-all",
    ]
    assert "[tile]" in rows[0].text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--a", "1", "2", "3"], ["--a", "1", "--a", "2", "--a", "3"]),
        (["x", "--a", "1", "--b", "2", "3"], ["x", "--a", "1", "--b", "2", "3"]),
        (["--a", "1", "--a", "2"], ["--a", "1", "--a", "2"]),
        (["x", "y"], ["x", "y"]),
    ],
)
def test_an_option_takes_what_follows(arguments: list[str], expected: list[str]) -> None:
    assert repeated(arguments, "--a") == expected


def test_toml_is_read_back() -> None:
    config = TileConfig(slides=('a "b"\\c.svs', "µ.svs"), out="o", mpp=1e-3, coords_only=True)
    values = tomllib.loads(as_toml(config))["tile"]
    assert values["mpp"] == 0.001 and values["coords-only"] is True and "slide-mpp" not in values
    assert values["slides"] == ['a "b"\\c.svs', "µ.svs"]
    assert (
        TileConfig(**{name.replace("-", "_"): tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        == config
    )
