"""The four commands; each body: config in, one stage called, closing table printed."""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

import typer
from typer.exceptions import TyperException

from sgcl_cli import __version__
from sgcl_cli.cli.console import Terminal
from sgcl_cli.cli.options import as_toml, options_of, repeated
from sgcl_cli.config import (
    Config,
    EmbedConfig,
    EvaluateConfig,
    PretrainConfig,
    TileConfig,
    failures_allowed,
    load_toml,
)
from sgcl_cli.errors import ElsewhereError, Interrupted, SgclError

SOME_FAILED = 3

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sgcl {__version__}")
        raise typer.Exit


@app.callback(
    help="From whole-slide images to a pretrained encoder to honest downstream numbers.",
    epilog="Example: sgcl tile slides/ --out tiles/",
)
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    pass


def _command(kind: type[Config], help: str, example: str) -> None:
    def body(door: dict[str, Any], given: dict[str, Any]) -> None:
        settings = load_toml(door["config"], kind.table) if door["config"] else {}
        config = kind.resolve(settings, given)
        if door["print_config"]:
            print(as_toml(config))
            return
        terminal = Terminal(quiet=door["quiet"] or door["json"])
        stage = getattr(importlib.import_module(f"sgcl_cli.stages.{kind.table}"), kind.table)
        try:
            outcome = stage(config, terminal)
        except KeyboardInterrupt:  # before typer makes a silent exit of it
            raise Interrupted(signal.SIGINT) from None
        if not outcome.told:
            terminal.close(outcome, as_json=door["json"])
        allowed = failures_allowed(getattr(config, "allow_failures", "0"), outcome.total)
        if len(outcome.failures) > allowed:
            raise typer.Exit(SOME_FAILED)

    app.command(kind.table, help=help, epilog=f"Example: {example}")(options_of(kind, body))


_command(
    TileConfig,
    "Find tissue on whole-slide images and store its patches with their coordinates.",
    "sgcl tile slides/ --out tiles/ --mpp 0.5",
)
_command(
    PretrainConfig,
    "Train an encoder on patches, without labels, by spatial guided contrastive learning.",
    "sgcl pretrain tiles/ --out run/ --epochs 100",
)
_command(
    EmbedConfig,
    "Compute features of patches with a trained encoder.",
    "sgcl embed tiles/ --encoder run/ --out features/",
)
_command(
    EvaluateConfig,
    "Measure features on labels, with patient-grouped folds, intervals and a report.",
    "sgcl evaluate features/ --labels labels.csv --out results/",
)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 1, 2, 3, 130 or 143 (docs/README say what each means)."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=repeated(arguments, "--compare"), prog_name="sgcl", standalone_mode=False)
    except ElsewhereError as error:
        return error.exit_code
    except SgclError as error:
        Terminal().error(error)
        return error.exit_code
    except TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        Terminal().error(SgclError(message, "see sgcl --help, or sgcl COMMAND --help"))
        return 2
    except Interrupted as stop:
        if not stop.told:
            Terminal().note("interrupted; run the same command again to go on")
        return 128 + stop.signum
    return code if isinstance(code, int) else 0


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


def main() -> None:
    """The entry point ``sgcl``.

    One of several processes ends without taking Python down: a thread of gloo may still free a tensor of the last exchange, and
    where it asks for the interpreter while that ends, the process aborts (pytorch/pytorch#190489).
    """
    code = run(sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
