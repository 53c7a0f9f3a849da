"""sgcl pretrain: patches in; checkpoints, the encoder, and how training went out."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard, card_values, load_checkpoint, save_checkpoint, save_encoder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.config import PretrainConfig, differences
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.fit import Position, cosine, fit
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.engine.loader import Batch, Failed, Loader, StoredPatches, epoch_order
from sgcl_cli.engine.optimisers import make_optimiser
from sgcl_cli.engine.ranks import Ranks, joint_commit, joint_refit, joint_total
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import MEAN, STD, make_views, settings_from
from sgcl_cli.errors import ConfigError, Interrupted, TrainingError
from sgcl_cli.method.sgcl import SGCL, Diagnostics, Losses, Settings, bytes_needed, ramp
from sgcl_cli.nets.resnet import Projector
from sgcl_cli.progress import Reporter, Silent, Task
from sgcl_cli.stages.encoders import Start, build_start, input_side, open_start

FORMAT = "sgcl.pretrain/1"
_DRY_STEPS = 2
_NOTHING_LEARNED = 0.02  # nats
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
    run = _Run(config, index, start, runtime, run_id, reporter)
    if config.dry_run:
        return run.try_out(record)
    if (out / "last.pt").exists():
        run.resume(load_checkpoint(out / "last.pt"))
    run.train()
    return run.finish(record)


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
    return Outcome("pretrain", out, _headline(out, data), warnings=result["warnings"], data=data)


def _headline(out: Path, data: dict[str, Any]) -> list[tuple[str, str]]:
    last = data["last_epoch"]
    terms = "  ".join(f"{name} {value:.3f}" for name, value in last["loss"].items() if value is not None)
    return [
        ("patches", f"{data['patches']:,} of {data['slides']} slides"),
        ("epochs", f"{data['epochs']}, {data['steps']:,} steps"),
        ("loss, last epoch", terms),
        ("images per second", f"{data['images_per_second']:.1f}"),
        ("encoder", str(out / "encoder.safetensors")),
    ]


@dataclass
class _Tally:
    """Means over the steps of an epoch."""

    sums: dict[str, float]
    steps: int = 0

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def means(self) -> dict[str, float]:
        return {name: value / max(1, self.steps) for name, value in self.sums.items()}


@dataclass(frozen=True)
class _New:
    """What the banks take after the step: v (B, D), h (B, H), corners (4, B, D) or None; MoCo's are the keys."""

    v: Tensor
    h: Tensor
    corners: Tensor | None


class _KeyNetworks(nn.Module):
    """MoCo's key encoder and projector: they follow the trained ones and have no gradient (He et al., CVPR 2020)."""

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = copy.deepcopy(encoder), copy.deepcopy(projector)
        self.requires_grad_(False)

    @property
    def both(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.projector

    @torch.no_grad()
    def follow(self, encoder: nn.Module, projector: nn.Module, momentum: float) -> None:
        """key <- momentum key + (1 - momentum) query, parameters only; batch norm keeps its own statistics."""
        for key, query in zip(self.parameters(), [*encoder.parameters(), *projector.parameters()], strict=True):
            key.lerp_(query, 1 - momentum)


class _Run:
    """One training run: the networks, the objective and the optimiser, and where it stands."""

    def __init__(
        self,
        config: PretrainConfig,
        index: PatchIndex,
        start: Start,
        runtime: Runtime,
        run_id: str,
        reporter: Reporter,
    ) -> None:
        self.config, self.index, self.runtime, self.run_id, self.reporter = config, index, runtime, run_id, reporter
        self.initial = start
        self.out = Path(config.out)
        self.views = settings_from(config, index.patch_size)
        self.steps_per_epoch = len(index) // config.batch
        self.settings, self.warnings = _settings(config).resolve(len(index), config.epochs, config.batch)
        for warning in self.warnings:
            reporter.warn(warning)
        sides = (self.views.view, self.views.corner) if self.settings.inner else (self.views.view,)
        with engine.seeded(config.seed):
            self.encoder, self.embedding_size, init_fit = build_start(start, sides)
            self.projector = Projector(self.embedding_size, config.projection)
        if init_fit is not None:
            reporter.note(f"--init {config.init}: {init_fit.describe()}")
        self.encoder.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projector.to(runtime.device)
        self.keys = _KeyNetworks(self.encoder, self.projector) if config.base == "moco" else None
        self._check_memory()
        self.objective = SGCL(
            self.settings,
            torch.from_numpy(index.slide_of),
            torch.from_numpy(index.cells),
            dim=config.projection,
            hidden_dim=self.embedding_size,
            seed=config.seed,
            device=runtime.device,
        )
        self.optimiser = make_optimiser(
            config.optimiser,
            (self.encoder, self.projector),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=runtime.on_cuda,
        )
        workers = engine.loading_workers(config.workers, runtime)
        self.loader = Loader(StoredPatches(index), workers=workers, pin=runtime.on_cuda)
        self.position = Position()
        self.ranks = Ranks.current()
        self.tally = _Tally({})
        self.epoch_means: dict[str, float] = {}
        self._earlier_seconds = 0.0
        self._started = time.perf_counter()
        self._checkpoint_seconds = 0.0
        self._log: list[str] = []
        self._bar: Task | None = None
        self._writes = not config.dry_run

    def _check_memory(self) -> None:
        """Say what banks and lists take, and refuse what cannot fit before anything of it is allocated."""
        n, sizes = len(self.index), {"dim": self.config.projection, "hidden_dim": self.embedding_size}
        needed, free = bytes_needed(self.settings, n, **sizes), engine.free_bytes(self.runtime)
        per_million = bytes_needed(self.settings, 10**6, **sizes)
        self.reporter.note(
            f"banks and lists: {needed / 2**30:.2f} GiB for {n:,} patches ({per_million / 2**30:.1f} GiB a million)"
        )
        if free is not None and needed > free:
            raise TrainingError(
                f"banks and lists for {n:,} patches need {needed / 2**30:.1f} GiB, {self.runtime.device} has "
                f"{free / 2**30:.1f} GiB free",
                "use --bank-dtype bfloat16, --ranking v (needs no bank of h), or a GPU with more memory",
            )

    # What engine.fit asks for.

    def begin_epoch(self, position: Position) -> None:
        for network in (self.encoder, self.projector):
            network.train()
        if (
            position.epoch > 0
            and position.within == 0
            and self.settings.weight_spatial > 0
            and self.settings.propagation
        ):
            started = time.perf_counter()
            report = joint_refit(self.objective, self.ranks, position.epoch)
            self._write_log({"step": position.step, "clusters": {**report, "seconds": time.perf_counter() - started}})

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        order = epoch_order(len(self.index), self.config.batch, self.config.seed, epoch, start)
        for batch in self.loader.batches(order):
            if isinstance(batch, Failed):
                raise batch.error
            yield batch

    def loss(self, batch: Batch, position: Position) -> Tensor:
        device = self.runtime.device
        self._index = torch.from_numpy(batch.index).to(device)
        with torch.no_grad():
            views = make_views(
                batch.patches.to(device, non_blocking=True),
                batch.index,
                settings=self.views,
                seed=self.config.seed,
                epoch=position.epoch,
                corners=self.settings.inner,
                second=self.keys is not None,
            )
        whole = self._embed(views.whole, self.encoder, self.projector)
        corners = None if views.corners is None else self._corners(views.corners, self.encoder, self.projector)
        self._new = _New(*whole, corners)
        key = None
        if self.keys is not None and views.second is not None:
            with torch.no_grad():
                key, h = self._embed(views.second, self.keys.encoder, self.keys.projector)
                quarters = None if views.corners is None else self._corners(views.corners, *self.keys.both)
            self._new = _New(key, h, quarters)
        self._losses: Losses = self.objective.losses(
            self._index,
            whole[0],
            whole[1].detach(),
            corners,
            epoch=position.epoch + position.within / self.steps_per_epoch,
            step=position.step,
            key_BD=key,
        )
        return joint_total(self._losses, self.ranks)

    def _embed(self, images: Tensor, encoder: nn.Module, projector: nn.Module) -> tuple[Tensor, Tensor]:
        """v (B, D) and h (B, H) of images, unit rows in float32."""
        images = images.contiguous(memory_format=torch.channels_last)
        with self.runtime.autocast():
            h = encoder(images)
            v = projector(h)
        return normalize(v.float(), dim=1), normalize(h.float(), dim=1)

    def _corners(self, images: Tensor, encoder: nn.Module, projector: nn.Module) -> Tensor:
        """v (4, B, D) of the quarters (4, B, 3, corner, corner)."""
        v, _ = self._embed(images.flatten(0, 1), encoder, projector)
        return v.view(4, images.shape[1], -1)

    def stepped(self, batch: Batch, position: Position) -> None:
        new = self._new
        quarters = None if new.corners is None else new.corners.detach()
        joint_commit(self.objective, self.ranks, self._index, new.v.detach(), new.h.detach(), quarters)
        if self.keys is not None:
            self.keys.follow(self.encoder, self.projector, self.settings.key_momentum)
        self.position = position
        terms = _terms(self._losses)
        self.tally.add(terms)
        self._write_log(
            {
                "step": position.step,
                "epoch": round(position.epoch + position.within / self.steps_per_epoch, 6),
                "lr": self.optimiser.param_groups[0]["lr"],
                "ramp": ramp(position.epoch + position.within / self.steps_per_epoch, self.settings.ramp_epochs or 0.0),
                "loss": terms,
                **_watched(self._losses.diagnostics),
            }
        )
        if self._bar is not None:
            self._bar.update(note=f"epoch {position.epoch + 1}/{self.config.epochs} loss {terms['total']:.3f}")
            self._bar.advance()
        if time.monotonic() - self._saved > 60 * self.config.checkpoint_minutes:
            self.save()

    def end_epoch(self, position: Position) -> bool:
        self.position = position
        self.epoch_means = self.tally.means()
        self.tally = _Tally({})
        if self._writes:
            self.save()
        return False

    # Training, checkpoints, going on.

    def train(self) -> None:
        """Run to the last epoch, or until a signal asks to stop."""
        total = self.config.epochs * self.steps_per_epoch
        self._saved = time.monotonic()
        self._started = time.perf_counter()
        with StopRequest() as stop, self.reporter.task("pretrain", total, "steps") as self._bar:
            self._bar.advance(self.position.step)
            try:
                fit(
                    self,
                    self.optimiser,
                    epochs=self.config.epochs,
                    lr=cosine(self.config.lr, total),
                    start=self.position,
                    stop=lambda: stop.signum is not None,
                )
            except TrainingError as error:
                last = self.out / "last.pt"
                good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
                raise TrainingError(error.message, f"{error.hint}; {good}") from error
            if stop.signum is not None and self.position.epoch < self.config.epochs:
                if self._checkpoint_seconds <= self.config.grace:
                    self.save()
                raise Interrupted(stop.signum)
        self.trained_seconds = self.seconds()

    def seconds(self) -> float:
        """Seconds of training so far, earlier parts of an interrupted run included."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def try_out(self, record: RunRecord) -> Outcome:
        """Two steps, nothing written: what a run would take."""
        total = self.config.epochs * self.steps_per_epoch
        self._saved = time.monotonic()
        marks = [time.perf_counter()]

        def enough() -> bool:
            marks.append(time.perf_counter())
            return len(marks) > _DRY_STEPS

        fit(self, self.optimiser, epochs=1, lr=cosine(self.config.lr, total), stop=enough)
        seconds = marks[-1] - marks[-2]
        data = {
            "patches": len(self.index),
            "slides": len(self.index.files),
            "steps": total,
            "seconds_per_step": seconds,
            "expected_hours": seconds * total / 3600,
            "objective": _plain(self.settings),
        }
        headline = [
            ("patches", f"{len(self.index):,} of {len(self.index.files)} slides"),
            ("steps", f"{total:,}"),
            ("seconds per step", f"{seconds:.2f}"),
            ("expected hours", f"{data['expected_hours']:.2f}"),
        ]
        return Outcome("pretrain", self.out, headline, warnings=self.warnings, data=data)

    def save(self) -> None:
        """Write last.pt, after the lines of metrics.jsonl that lead up to it."""
        started = time.perf_counter()
        self._flush_log()
        save_checkpoint(
            self.out / "last.pt",
            {
                "id": self.run_id,
                "config": {**self.config.affecting(), **self.initial.settings},
                "patches_id": self.index.id,
                "slides": {file.slide_id: file.id for file in self.index.files},
                "position": [self.position.epoch, self.position.within, self.position.step],
                "encoder": {"card": card_values(self._card()), "state": self.encoder.state_dict()},
                "projector": self.projector.state_dict(),
                "objective": self.objective.state_dict(),
                "keys": None if self.keys is None else self.keys.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "tally": {"sums": self.tally.sums, "steps": self.tally.steps},
                "epoch_means": self.epoch_means,
                "seconds": self.seconds(),
            },
        )
        self._saved = time.monotonic()
        self._checkpoint_seconds = time.perf_counter() - started

    def resume(self, checkpoint: dict[str, Any]) -> None:
        """Take up a checkpoint.

        :raises ConfigError: it was made under other settings, or on other patches; the message says which.
        """
        changed = differences(checkpoint["config"], {**self.config.affecting(), **self.initial.settings})
        if changed:
            raise ConfigError(
                f"{self.out} holds a run under other settings: {'; '.join(changed)}",
                "use the same settings to go on, another --out, or --overwrite to start again",
            )
        if checkpoint["patches_id"] != self.index.id:
            raise ConfigError(
                f"{self.out} holds a run on other patches: {self._corpus_change(checkpoint['slides'])}",
                "use another --out, or --overwrite to start again",
            )
        self.encoder.load_state_dict(checkpoint["encoder"]["state"])
        self.projector.load_state_dict(checkpoint["projector"])
        self.objective.load_state_dict(checkpoint["objective"])
        if self.keys is not None:
            self.keys.load_state_dict(checkpoint["keys"])
        self.optimiser.load_state_dict(checkpoint["optimiser"])
        self.position = Position(*checkpoint["position"])
        self.tally = _Tally(dict(checkpoint["tally"]["sums"]), checkpoint["tally"]["steps"])
        self.epoch_means = dict(checkpoint["epoch_means"])
        self._earlier_seconds = checkpoint["seconds"]
        self.reporter.note(f"going on from step {self.position.step} of {self.out / 'last.pt'}")
        self._trim_log()

    def _corpus_change(self, before: dict[str, str]) -> str:
        now = {file.slide_id: file.id for file in self.index.files}
        added, gone = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
        changed = sorted(slide for slide in now.keys() & before.keys() if now[slide] != before[slide])
        found = (("added", added), ("gone", gone), ("changed", changed))
        return "; ".join(f"{len(ids)} slides {what}, first '{ids[0]}'" for what, ids in found if ids)

    def _write_log(self, entry: dict[str, Any]) -> None:
        if self._writes:
            self._log.append(json.dumps(entry, allow_nan=False))

    def _flush_log(self) -> None:
        path = self.out / "metrics.jsonl"
        with store.writing(path):
            self.out.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in self._log)
        self._log.clear()

    def _trim_log(self) -> None:
        """Drop the lines that an interrupted run wrote after its checkpoint; their steps come again."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] > self.position.step:
                    break
            except json.JSONDecodeError:
                break
            kept.append(line + "\n")
        store.write_text(path, "".join(kept))

    def _card(self) -> EncoderCard:
        return EncoderCard(
            name=self.config.encoder,
            embedding_size=self.embedding_size,
            input_size=input_side(self.encoder, self.index.patch_size),
            mean=MEAN,
            std=STD,
            mpp=self.index.mpp,
            patch_size=self.index.patch_size,
            run_id=self.run_id,
            epochs=self.position.step / self.steps_per_epoch,
            pretrain_slides=tuple(
                dict.fromkeys((*(str(f.source.get("identity", f.id)) for f in self.index.files), *self.initial.slides))
            ),
        )

    def finish(self, record: RunRecord) -> Outcome:
        """Export the encoder, draw the curves, list the slides, write run.json."""
        card = save_encoder(self.out, self._card(), self.encoder.state_dict())
        warnings = [*self.warnings, *self._judge(), *self._draw()]
        store.write_csv(
            self.out / "slides.csv",
            ("slide_id", "patches", "identity", "patches_id"),
            [
                {
                    "slide_id": f.slide_id,
                    "patches": len(f),
                    "identity": f.source.get("identity", ""),
                    "patches_id": f.id,
                }
                for f in self.index.files
            ],
        )
        images = self.position.step * self.config.batch
        data = {
            "id": self.run_id,
            "patches": len(self.index),
            "slides": len(self.index.files),
            "epochs": self.position.epoch,
            "steps": self.position.step,
            "last_epoch": {"loss": self.epoch_means},
            "images_per_second": images / self.trained_seconds,
            "encoder_sha256": card.sha256,
            "objective": _plain(self.settings),
        }
        outcome = Outcome("pretrain", self.out, _headline(self.out, data), warnings=warnings, data=data)
        record.write(
            self.out, artefact=self.run_id, inputs={"patches": self.index.id, **self.initial.settings}, outcome=outcome
        )
        return outcome

    def _judge(self) -> list[str]:
        """A warning where the self term ended where equal similarities put it: at the logarithm of its candidates."""
        compared = 1 + int((self.settings.queue if self.keys is not None else self.settings.uniform_negatives) or 0)
        reached = self.epoch_means.get("self", 0.0)
        if self.settings.weight_self == 0 or abs(reached - math.log(compared)) > _NOTHING_LEARNED:
            return []
        warning = (
            f"the self term ended at {reached:.3f}, where ln({compared}) = {math.log(compared):.3f} means that it learned "
            "nothing: use a lower --lr for small batches, weaker views, or more epochs"
        )
        self.reporter.warn(warning)
        return [warning]

    def _draw(self) -> list[str]:
        from sgcl_cli.report.curves import draw_curves, read_metrics

        try:
            draw_curves(read_metrics(self.out / "metrics.jsonl"), self.out / "curves.png")
        except ImportError:
            warning = "matplotlib is not installed: curves.png is skipped; metrics.jsonl has its numbers"
            self.reporter.warn(warning)
            return [warning]
        return []


def _settings(config: PretrainConfig) -> Settings:
    """The options that are settings of the objective, under the same names."""
    shared = {spec.name for spec in fields(Settings)} & {spec.name for spec in fields(config)}
    return Settings(**{name: getattr(config, name) for name in shared})


def _terms(losses: Losses) -> dict[str, float]:
    """The terms of the loss as numbers, with one transfer from the device."""
    stacked = torch.stack([losses.total.detach(), losses.self_term, losses.spatial_term, losses.inner_term])
    return dict(zip(("total", "self", "spatial", "inner"), stacked.tolist(), strict=True))


def _watched(diagnostics: Diagnostics | None) -> dict[str, float | None]:
    """Batch means of what a person watches; null where there is nothing to average."""
    if diagnostics is None:
        return {}
    means = {
        "spatial_positives": diagnostics.spatial.mean(),
        "propagated_positives": diagnostics.propagated.mean(),
        "positive_similarity": diagnostics.positive_similarity,
        "negative_similarity": diagnostics.negative_similarity,
        "propagated_same_slide": diagnostics.same_slide,
    }
    values = torch.stack([value.float() for value in means.values()]).tolist()
    return {name: value if math.isfinite(value) else None for name, value in zip(means, values, strict=True)}


def _plain(settings: Settings) -> dict[str, Any]:
    return {spec.name: getattr(settings, spec.name) for spec in fields(settings)}
