"""Settings of all commands, each defined once: default, help and range. Options, TOML files and run.json derive from them.

Precedence: default < recipe < TOML < flag. Fields with ``affects=True`` enter the artefact's id, so outputs made with different
values are never mixed; the others (numbers of workers, devices, folders) may change between runs.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from sgcl_cli.config.base import (
    REQUIRED,
    Config,
    Meta,
    accepted_type,
    describe,
    differences,
    failures_allowed,
    flag,
    option,
    relative,
    whole_number,
)
from sgcl_cli.config.embed import EmbedConfig
from sgcl_cli.config.encoders import ARCHITECTURES, colours
from sgcl_cli.config.evaluate import EvaluateConfig
from sgcl_cli.config.objective import ObjectiveOptions
from sgcl_cli.config.predict import PredictConfig
from sgcl_cli.config.pretrain import PretrainConfig
from sgcl_cli.config.tile import TileConfig
from sgcl_cli.config.views import ViewOptions
from sgcl_cli.errors import ConfigError

__all__ = [
    "ARCHITECTURES",
    "COMMANDS",
    "REQUIRED",
    "Config",
    "EmbedConfig",
    "EvaluateConfig",
    "Meta",
    "ObjectiveOptions",
    "PredictConfig",
    "PretrainConfig",
    "TileConfig",
    "ViewOptions",
    "accepted_type",
    "colours",
    "describe",
    "differences",
    "failures_allowed",
    "flag",
    "load_toml",
    "option",
    "relative",
    "whole_number",
]

COMMANDS: tuple[type[Config], ...] = (TileConfig, PretrainConfig, EmbedConfig, EvaluateConfig, PredictConfig)


def load_toml(path: str | Path, table: str) -> dict[str, Any]:
    """Read the settings of one command from a TOML file with the tables [tile] [pretrain] [embed] [evaluate] [predict].

    :raises ConfigError: the file is missing, not TOML, or has a table of another name.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ConfigError(f"cannot read {path}: it is not a file", "give an existing TOML file to --config")
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "give an existing TOML file to --config") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, too
        raise ConfigError(f"{path} is not valid TOML: {error}", "example: a line [tile], then mpp = 0.5") from error
    tables = [kind.table for kind in COMMANDS]
    for key, value in content.items():
        if key not in tables or not isinstance(value, dict):
            near = difflib.get_close_matches(key, tables, n=1)
            hint = (
                f"did you mean [{near[0]}]?"
                if near
                else "settings belong in one of the tables " + ", ".join(f"[{t}]" for t in tables)
            )
            raise ConfigError(f"unknown table or key '{key[:60]}' in {path}", hint)
    settings: dict[str, Any] = content.get(table, {})
    return settings
