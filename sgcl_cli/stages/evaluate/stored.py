"""An existing result in the output folder, and whether it has the same settings and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import results
from sgcl_cli.config import Config, differences, flag
from sgcl_cli.errors import ConfigError


def stored_result(out: Path, config: Config, ids: Mapping[str, str]) -> tuple[dict[str, Any], list[str]] | None:
    """Data and warnings of a complete result of the same settings and inputs; None where there is none.

    :param ids: identities of the inputs, by name.
    :raises ConfigError: the folder holds a result of other settings or inputs, and --overwrite was not given.
    """
    if config.overwrite or not (out / "run.json").exists():
        return None
    run = results.read_run(out)
    with results.understood(out):
        return _same(out, run, config, ids)


def _same(
    out: Path, run: Mapping[str, Any], config: Config, ids: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]] | None:
    changed = differences(run.get("affecting", {}), config.affecting())
    changed += [f"{flag(name)} has changed" for name, value in ids.items() if run["inputs"].get(name, value) != value]
    gone = sorted(set(run["inputs"]) ^ set(ids))
    changed += [f"{flag(name)} was {'' if name in run['inputs'] else 'not '}given" for name in gone]
    if changed:
        raise ConfigError(
            f"{out} holds a result of other settings: {'; '.join(changed)}", "choose another --out, or give --overwrite"
        )
    result = run["result"]
    if any(not (out / name).exists() for name in result["files"]):
        return None
    data = {key: value for key, value in result.items() if key not in ("stage", "out", "failures", "warnings")}
    return data, list(result["warnings"])
