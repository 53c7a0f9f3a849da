"""The commands; each resolves its settings, calls one stage and prints the closing table."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from sgcl_cli import __version__
from sgcl_cli.cli import help as pages
from sgcl_cli.cli.console import Terminal, ascii_only, drop_output, finish_output, prepare_streams, print_plain, spelled
from sgcl_cli.cli.options import as_toml, common_rows, options_of, repeated
from sgcl_cli.config import (
    Config,
    EmbedConfig,
    EvaluateConfig,
    PredictConfig,
    PretrainConfig,
    TileConfig,
    failures_allowed,
    load_toml,
)
from sgcl_cli.config.base import whole_number
from sgcl_cli.errors import ConfigError, ElsewhereError, Interrupted, SgclError

if TYPE_CHECKING:
    from sgcl_cli.artefacts.results import Outcome

SOME_FAILED = 3

Given = TypeVar("Given", bound=Config)
Stage = Callable[[Given, Terminal], "Outcome"]

SUMMARY = "Tile whole-slide images, pretrain an encoder on them without labels, and evaluate its features."


class _Root(TyperGroup):
    """The command ``sgcl``; its help lists the commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        commands = [pages.HelpEntry(name, str(command.help)) for name, command in self.commands.items()]
        options = [pages.HelpEntry(option.opts[0], str(getattr(option, "help", ""))) for option in self.params]
        options.append(pages.HelpEntry("--help", "Show this page and exit."))
        sections = [pages.HelpSection("Commands", commands), pages.HelpSection("Options", options)]
        pages.show(pages.HelpPage("sgcl COMMAND [OPTIONS]", SUMMARY, sections, ROOT_CLOSING))


ROOT_CLOSING = (
    "Example, from slides to a report:",
    "  sgcl tile slides/ --out tiles/ --mpp 0.5",
    "  sgcl pretrain tiles/ --out run/",
    "  sgcl embed tiles/ --encoder run/ --out features/",
    "  sgcl evaluate features/ --labels labels.csv --out results/",
    "  sgcl predict results/ new-features/ --out predictions/",
    "",
    "sgcl COMMAND --help lists the basic options, --help-all lists all options.",
)

app = typer.Typer(cls=_Root, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sgcl {__version__}")
        raise typer.Exit


@app.callback(help=SUMMARY)
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def _command(kind: type[Given], example: str) -> Callable[[Stage[Given]], Stage[Given]]:
    """Register a stage as a command with an option for every field of ``kind``; its docstring is the help."""

    def register(stage: Stage[Given]) -> Stage[Given]:
        def body(common: dict[str, Any], given: dict[str, Any]) -> None:
            _check_working_folder()
            settings = load_toml(common["config"], kind.table) if common["config"] else {}
            config = kind.resolve(settings, given)
            if common["print_config"]:
                print_plain(as_toml(config, ascii_only=ascii_only()))
            else:
                _finish(stage, config, json=common["json"], quiet=common["quiet"])

        def show(everything: bool) -> None:
            summary = str(stage.__doc__)
            pages.show(
                pages.command_page(kind, summary, example, common_rows(kind), everything=everything),
            )

        class Documented(TyperCommand):
            def format_help(self, ctx: Any, formatter: Any) -> None:
                show(False)

        options = options_of(kind, body, lambda: show(True))
        app.command(kind.table, cls=Documented, help=stage.__doc__, epilog=f"Example: {example}")(options)
        return stage

    return register


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError("the working folder does not exist any more", "change to an existing folder") from error


def _finish(stage: Stage[Given], config: Given, *, json: bool, quiet: bool) -> None:
    """Run a stage and print its closing table.

    :raises Exit: with code 3 if more slides failed than the settings allow.
    """
    terminal = Terminal(quiet=quiet or json)
    try:
        outcome = stage(config, terminal)
    except KeyboardInterrupt:  # typer would turn it into a silent exit
        raise Interrupted(signal.SIGINT) from None
    if not outcome.reported:
        terminal.close(outcome, as_json=json)
    allowed = failures_allowed(getattr(config, "allow_failures", "0"), outcome.total)
    if len(outcome.failures) > allowed:
        raise typer.Exit(SOME_FAILED)


# Stages import torch, OpenSlide and other large libraries, so each is imported only when its command runs.


@_command(TileConfig, "sgcl tile slides/ --out tiles/ --mpp 0.5")
def tile(config: TileConfig, terminal: Terminal) -> Outcome:
    """Find tissue on whole-slide images and store its patches with their coordinates."""
    from sgcl_cli.stages.tile import tile as stage

    return stage(config, terminal)


@_command(PretrainConfig, "sgcl pretrain tiles/ --out run/ --epochs 100")
def pretrain(config: PretrainConfig, terminal: Terminal) -> Outcome:
    """Train an encoder on patches, without labels, by spatial guided contrastive learning."""
    from sgcl_cli.stages.pretrain import pretrain as stage

    return stage(config, terminal)


@_command(EmbedConfig, "sgcl embed tiles/ --encoder run/ --out features/")
def embed(config: EmbedConfig, terminal: Terminal) -> Outcome:
    """Compute features of patches with a trained encoder."""
    from sgcl_cli.stages.embed import embed as stage

    return stage(config, terminal)


@_command(EvaluateConfig, "sgcl evaluate features/ --labels labels.csv --out results/")
def evaluate(config: EvaluateConfig, terminal: Terminal) -> Outcome:
    """Evaluate features on labels: patient-grouped cross-validation, confidence intervals and a report."""
    from sgcl_cli.stages.evaluate import evaluate as stage

    return stage(config, terminal)


@_command(PredictConfig, "sgcl predict results/ features/ --out predictions/")
def predict(config: PredictConfig, terminal: Terminal) -> Outcome:
    """Apply the models fitted by sgcl evaluate to features of other slides."""
    from sgcl_cli.stages.predict import predict as stage

    return stage(config, terminal)


class _Encoders(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        closing = ("Example: sgcl embed tiles/ --encoder uni2 --out features/",)
        pages.show(pages.HelpPage("sgcl encoders", str(self.help), [], closing))


@app.command("encoders", cls=_Encoders)
def encoders() -> None:
    """List the encoders known to sgcl embed by name, their requirements, and whether they can be used here."""
    from sgcl_cli.nets.catalogue import CATALOGUE, availability

    rows = [("name", "numbers", "patches at 0.5 µm/px", "library", "agreement", "usable here")]
    for name, entry in CATALOGUE.items():
        gate = {True: "needed", False: "none", None: "unknown"}[entry.gated]
        size = f"{entry.patch_size} pixels"
        rows.append((name, str(entry.width), size, entry.library, gate, availability(entry)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    print_plain(spelled("\n".join(lines)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    0: complete. 1: failed, no usable output. 2: wrong options or input. 3: finished, but slides failed. 130 or 143: interrupted.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=repeated(arguments, "--compare"), prog_name="sgcl", standalone_mode=False)
        finish_output()
    except BrokenPipeError:  # a reader such as head has closed the pipe
        drop_output()
        return 0
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
        if not stop.reported:
            Terminal().note("interrupted; run the same command again to continue")
        return 128 + stop.signum
    return code if isinstance(code, int) else 0


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


def main() -> None:
    """The entry point ``sgcl``.

    With several processes, exit without finalising Python: a thread of gloo that frees a tensor of the last exchange during
    finalisation aborts the process (pytorch/pytorch#190489).
    """
    prepare_streams()
    code = run(sys.argv[1:])
    if (whole_number(os.environ.get("WORLD_SIZE", "1"), 0, 2**31 - 1) or 0) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
