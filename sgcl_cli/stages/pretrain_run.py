"""One training run: what engine.fit asks for at every step, joined from loader, views, networks and objective."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.fit import Position, cosine, fit
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.engine.loader import Batch, Failed, Loader, StoredPatches, epoch_order
from sgcl_cli.engine.networks import Embedded, KeyNetworks, Networks
from sgcl_cli.engine.optimisers import make_optimiser
from sgcl_cli.engine.ranks import Ranks, joint_commit, joint_refit, joint_total
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import make_views, settings_from
from sgcl_cli.errors import Interrupted, TrainingError
from sgcl_cli.method.sgcl import SGCL, Losses, Settings, bytes_needed, ramp
from sgcl_cli.nets.resnet import Projector
from sgcl_cli.progress import Reporter, Task
from sgcl_cli.stages.encoders import Start, build_start
from sgcl_cli.stages.pretrain_log import MetricsLog, Tally, terms, watched
from sgcl_cli.stages.pretrain_state import Checkpoints, State


class Run:
    """The networks, the objective and the optimiser of a run, its loader, and where it stands (``state``)."""

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
        self.start = start
        self.out = Path(config.out)
        self.ranks = Ranks.current()
        self.views = settings_from(config, index.patch_size)
        self.steps_per_epoch = len(index) // config.batch
        self.total_steps = config.epochs * self.steps_per_epoch
        self.settings, self.warnings = _settings(config).resolve(len(index), config.epochs, config.batch)
        for warning in self.warnings:
            reporter.warn(warning)
        self.state = self._begin()
        workers = engine.loading_workers(config.workers, runtime)
        self.loader = Loader(StoredPatches(index), workers=workers, pin=runtime.on_cuda)
        self.checkpoints = Checkpoints(config, index, start, run_id)
        self.log = MetricsLog(self.out, writes=not config.dry_run)
        self._started = time.perf_counter()
        self._bar: Task | None = None

    def _begin(self) -> State:
        """The state before the first step, all of it from the seed."""
        config, runtime = self.config, self.runtime
        sides = (self.views.view, self.views.corner) if self.settings.inner else (self.views.view,)
        with engine.seeded(config.seed):
            encoder, width, fitted = build_start(self.start, sides)
            projector = Projector(width, config.projection)
        if fitted is not None:
            self.reporter.note(f"--init {config.init}: {fitted.describe()}")
        networks = Networks(encoder, projector, runtime)
        self._check_memory(width)
        objective = SGCL(
            self.settings,
            torch.from_numpy(self.index.slide_of),
            torch.from_numpy(self.index.cells),
            dim=config.projection,
            hidden_dim=width,
            seed=config.seed,
            device=runtime.device,
        )
        optimiser = make_optimiser(
            config.optimiser,
            (networks,),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=runtime.on_cuda,
        )
        return State(networks, KeyNetworks(networks) if config.base == "moco" else None, objective, optimiser)

    def _check_memory(self, hidden_dim: int) -> None:
        """Say what banks and lists take, and refuse what cannot fit before anything of it is allocated."""
        n, sizes = len(self.index), {"dim": self.config.projection, "hidden_dim": hidden_dim}
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
        """Training mode; from the second epoch on, new clusters."""
        self.state.networks.train()
        if position.epoch > 0 and position.within == 0 and self.settings.clustered:
            started = time.perf_counter()
            report = joint_refit(self.state.objective, self.ranks, position.epoch)
            self.log.write({"step": position.step, "clusters": {**report, "seconds": time.perf_counter() - started}})

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from a position on."""
        order = epoch_order(len(self.index), self.config.batch, self.config.seed, epoch, start)
        for batch in self.loader.batches(order):
            if isinstance(batch, Failed):
                raise batch.error
            yield batch

    def loss(self, batch: Batch, position: Position) -> Tensor:
        """The objective of a batch; what the banks take afterwards is kept for ``stepped``."""
        state = self.state
        with torch.no_grad():
            views = make_views(
                batch.patches.to(self.runtime.device, non_blocking=True),
                batch.index,
                settings=self.views,
                seed=self.config.seed,
                epoch=position.epoch,
                corners=self.settings.inner,
                second=state.keys is not None,
            )
        self._index = torch.from_numpy(batch.index).to(self.runtime.device)
        query: Embedded = state.networks(views.whole, views.corners)
        keys = None if state.keys is None else state.keys.keys_of(views)
        self._new = (keys or query).detached()
        self._losses: Losses = state.objective.losses(
            self._index,
            query.v,
            query.h.detach(),
            query.corners,
            epoch=self.epochs_at(position),
            step=position.step,
            key_BD=None if keys is None else keys.v,
        )
        return joint_total(self._losses, self.ranks)

    def stepped(self, batch: Batch, position: Position) -> None:
        """Move the banks and the key networks, count and log the step, and write the checkpoint that is due."""
        state, new = self.state, self._new
        joint_commit(state.objective, self.ranks, self._index, new.v, new.h, new.corners)
        if state.keys is not None:
            state.keys.follow(state.networks, self.settings.key_momentum)
        state.position = position
        losses = terms(self._losses)
        state.tally.add(losses)
        self.log.write({"step": position.step, **self._schedule(position), "loss": losses, **self._measures()})
        if self._bar is not None:
            self._bar.update(note=f"epoch {position.epoch + 1}/{self.config.epochs} loss {losses['total']:.3f}")
            self._bar.advance()
        if self.checkpoints.due:
            self.save()

    def _schedule(self, position: Position) -> dict[str, float]:
        epochs = self.epochs_at(position)
        return {
            "epoch": round(epochs, 6),
            "lr": self.state.optimiser.param_groups[0]["lr"],
            "ramp": ramp(epochs, self.settings.ramp_epochs or 0.0),
        }

    def _measures(self) -> dict[str, float | None]:
        """What a line of metrics.jsonl says of its step besides the loss."""
        return watched(self._losses.diagnostics)

    def end_epoch(self, position: Position) -> bool:
        """Close the epoch's means and write a checkpoint."""
        state = self.state
        state.position = position
        state.epoch_means, state.tally = state.tally.means(), Tally()
        if not self.config.dry_run:
            self.save()
        return False

    # Training, checkpoints.

    def epochs_at(self, position: Position) -> float:
        """A position in epochs, as a real number."""
        return position.epoch + position.within / self.steps_per_epoch

    def resume(self) -> None:
        """Go on from last.pt, where there is one.

        :raises ConfigError: it was made under other settings, or on other patches; the message says which.
        """
        if self.checkpoints.resume(self.state):
            self.reporter.note(f"going on from step {self.state.position.step} of {self.checkpoints.last}")
            self.log.trim(self.state.position.step)

    def train(self) -> None:
        """Run to the last epoch, or until a signal asks to stop."""
        self.checkpoints.start_clock()
        self._started = time.perf_counter()
        with StopRequest() as stop, self.reporter.task("pretrain", self.total_steps, "steps") as self._bar:
            self._bar.advance(self.state.position.step)
            try:
                fit(
                    self,
                    self.state.optimiser,
                    epochs=self.config.epochs,
                    lr=cosine(self.config.lr, self.total_steps),
                    start=self.state.position,
                    stop=lambda: stop.signum is not None,
                )
            except TrainingError as error:
                last = self.checkpoints.last
                good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
                raise TrainingError(error.message, f"{error.hint}; {good}") from error
            if stop.signum is not None and self.state.position.epoch < self.config.epochs:
                if self.checkpoints.took <= self.config.grace:
                    self.save()
                raise Interrupted(stop.signum)
        self.trained_seconds = self.seconds()

    def seconds(self) -> float:
        """Seconds of training so far, earlier parts of an interrupted run included."""
        return self.state.seconds + time.perf_counter() - self._started

    def save(self) -> None:
        """Write last.pt, after the lines of metrics.jsonl that lead up to it."""
        self.log.flush()
        self.checkpoints.save(self.state, self.seconds())


def _settings(config: PretrainConfig) -> Settings:
    """The options that are settings of the objective, under the same names."""
    shared = {spec.name for spec in fields(Settings)} & {spec.name for spec in fields(config)}
    return Settings(**{name: getattr(config, name) for name in shared})


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON values."""
    return {spec.name: getattr(settings, spec.name) for spec in fields(settings)}
