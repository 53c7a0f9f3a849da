"""sgcl pretrain: patches in; checkpoints, the encoder, and how training went out."""

from __future__ import annotations

from pathlib import Path

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.errors import TrainingError
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.stages.encoders import open_start
from sgcl_cli.stages.pretrain_close import close, headline
from sgcl_cli.stages.pretrain_run import Run
from sgcl_cli.stages.pretrain_trial import try_out

FORMAT = "sgcl.pretrain/1"
_OWN_FILES = ("last.pt", "encoder.safetensors", "encoder.json", "metrics.jsonl", "curves.png", "slides.csv", "run.json")


def pretrain(config: PretrainConfig, reporter: Reporter | None = None) -> Outcome:
    """Train an encoder on the patches of a folder, going on where an earlier run of the same command stopped.

    Writes last.pt, encoder.safetensors, encoder.json, metrics.jsonl, curves.png, slides.csv and, last, run.json.

    :raises ConfigError: the folder holds a run under other settings or on other patches.
    :raises ArtefactError: patches that are missing, damaged, mixed or without pixels.
    :raises TrainingError: too few patches, no such device, a loss that is not finite.
    :raises Interrupted: a signal came; a checkpoint was written if there was time.
    """
    reporter = reporter or Silent()
    record = RunRecord("pretrain", config)
    index = _corpus(config)
    start = open_start(config.encoder, config.init)
    run_id = store.artefact_id(FORMAT, {**config.affecting(), **start.settings}, [index.id])
    out = Path(config.out)
    if config.overwrite and not config.dry_run:
        _clear(out)
    stored = None if config.dry_run else _finished(out, run_id)
    if stored is not None:
        reporter.note(f"{out} is complete under these settings; nothing to do")
        return stored
    runtime = engine.start(config.device, config.precision, config.threads)
    reporter.note(f"device: {runtime.describe()}")
    run = Run(config, index, start, runtime, run_id, reporter)
    if config.dry_run:
        return try_out(run)
    run.resume()
    run.train()
    return close(run, record)


def _corpus(config: PretrainConfig) -> PatchIndex:
    index = PatchIndex.open(config.patches, pixels=True)
    if len(index) < config.batch:
        raise TrainingError(
            f"{config.patches} has {len(index)} patches, fewer than a batch of {config.batch}",
            f"use --batch {max(2, len(index) // 2)} or tile more slides",
        )
    if index.patch_size % 2:
        raise TrainingError(
            f"patches of {index.patch_size} pixels cannot be cut into quarters", "tile with an even --patch-size"
        )
    return index


def _clear(out: Path) -> None:
    for name in _OWN_FILES:
        (out / name).unlink(missing_ok=True)


def _finished(out: Path, run_id: str) -> Outcome | None:
    """The outcome of a run that is complete and the same; None where there is none, or one to go on with."""
    if not (out / "run.json").exists() or not (out / "encoder.safetensors").exists():
        return None
    written = store.read_json(out / "run.json")
    if written.get("id") != run_id:
        return None
    result = written["result"]
    data = {key: value for key, value in result.items() if key not in ("stage", "out", "failures", "warnings")}
    return Outcome("pretrain", out, headline(out, data), warnings=result["warnings"], data=data)
