"""The command ``sgcl pretrain``: from patches to checkpoints, an encoder and curves."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from sgcl_cli.artefacts import failed_batch, store
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import Outcome, RunRecord, check_free, read_run, understood
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.ranks import Ranks, joined, sole_writer
from sgcl_cli.errors import ArtefactError, TrainingError
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.stages.encoders import Start, open_start
from sgcl_cli.stages.pretrain.dry_run import try_out
from sgcl_cli.stages.pretrain.experiment import first_state, plan
from sgcl_cli.stages.pretrain.finish import close, headline
from sgcl_cli.stages.pretrain.pictures import picture_views
from sgcl_cli.stages.pretrain.state import epochs_kept
from sgcl_cli.stages.pretrain.training import Pretraining
from sgcl_cli.stages.pretrain.warnings import Warnings

FORMAT = "sgcl.pretrain/1"
_OWN_FILES = (
    "last.pt",
    "best.pt",
    "encoder.safetensors",
    "encoder.json",
    "metrics.jsonl",
    "views.png",
    "curves.png",
    "neighbours.png",
    "slides.csv",
    "run.json",
    failed_batch.NAME,
)


def pretrain(config: PretrainConfig, reporter: Reporter | None = None) -> Outcome:
    """Train an encoder on the patches of a folder; resume an interrupted run of the same command.

    Under torchrun every process calls this; rank 0 writes and prints. Writes views.png, metrics.jsonl and last.pt, then
    encoder.safetensors, encoder.json, curves.png, neighbours.png, slides.csv and, last, run.json; best.pt where a probe runs.

    :raises ConfigError: the folder holds a run under other settings or on other patches.
    :raises ArtefactError: patches that are missing, damaged, mixed or without pixels.
    :raises TrainingError: too few patches, no such device, a loss that is not finite.
    :raises Interrupted: by a signal; a checkpoint was written if there was time.
    """
    with joined(config.device) as ranks:
        voice = reporter if reporter is not None and ranks.first else Silent()
        return _pretrain(config, voice, ranks)


def _pretrain(config: PretrainConfig, reporter: Reporter, ranks: Ranks) -> Outcome:
    record = RunRecord("pretrain", config)
    out = Path(config.out)
    with ranks.together():
        check_free(out, "pretrain")
        index = _corpus(config)
        start = open_start(config.encoder, config.init)
        run_id = store.artefact_id(FORMAT, {**config.affecting(), **start.settings}, [index.id])
    _same_everywhere(ranks, run_id, f"the settings or the patches in {config.patches} differ between the processes")
    with sole_writer(out, ranks, dry_run=config.dry_run):
        return _trained(config, record, index, start, run_id=run_id, reporter=reporter, ranks=ranks)


def _trained(
    config: PretrainConfig,
    record: RunRecord,
    index: PatchIndex,
    start: Start,
    *,
    run_id: str,
    reporter: Reporter,
    ranks: Ranks,
) -> Outcome:
    """The run itself, while this process holds the lock on the output."""
    out = Path(config.out)
    with ranks.together():
        stored = _stored(config, out, run_id) if ranks.first else None
    stored = ranks.of_first(stored)
    if stored is not None:
        reporter.note(f"{out} is complete under these settings; nothing to do")
        for warning in stored.warnings:
            reporter.warn(warning)
        return replace(stored, reported=not ranks.first)
    with ExitStack() as opened:
        with ranks.together():
            runtime = engine.start(config.device, config.precision, config.threads, ranks.own_device)
            reporter.note(f"device: {runtime.describe()}{ranks.describe(config.batch)}")
            warnings = Warnings(reporter)
            experiment = plan(config, index, start, run_id=run_id, runtime=runtime, ranks=ranks, warnings=warnings)
            loader = opened.enter_context(experiment.loader())
            state = first_state(experiment, reporter)
            training = Pretraining(experiment, state, loader, reporter=reporter, warnings=warnings)
        if not config.dry_run:
            with ranks.together():
                if config.overwrite and ranks.first:
                    _clear(out)
            with ranks.together():
                training.resume()
        _same_everywhere(ranks, state.position, f"the processes do not see the same checkpoint in {out}")
        training.connect()
        if config.dry_run:
            return replace(try_out(training, reporter), reported=not ranks.first)
        if ranks.first:
            corners = experiment.wanted_views.corners
            warnings.show(picture_views(index, experiment.views, out, seed=config.seed, corners=corners))
        seconds = training.train()
    with ranks.together():
        return close(training, record, seconds=seconds) if ranks.first else Outcome("pretrain", out, [], reported=True)


def _same_everywhere(ranks: Ranks, value: object, otherwise: str) -> None:
    if len(set(ranks.all_of(value))) > 1:
        error = ArtefactError(otherwise, "patches and --out must lie where all nodes see the same files")
        ranks.agree(error)


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
    """Remove the former run, after everything that can refuse the new one was checked."""
    for path in [*(out / name for name in _OWN_FILES), *epochs_kept(out), *(out / "tensorboard").glob("events.out.*")]:
        path.unlink(missing_ok=True)


def _stored(config: PretrainConfig, out: Path, run_id: str) -> Outcome | None:
    """The outcome if the same run is complete; None if it has to be started or resumed."""
    if config.dry_run or config.overwrite:
        return None
    if not (out / "run.json").exists() or not (out / "encoder.safetensors").exists():
        return None
    written = read_run(out)
    if written.get("id") != run_id:
        return None
    with understood(out):
        result = written["result"]
        data = {key: value for key, value in result.items() if key not in ("stage", "out", "failures", "warnings")}
        return Outcome("pretrain", out, headline(out, data), warnings=list(result["warnings"]), data=data)
