"""One training run: what engine.fit asks for at every step, joined from loader, views, networks and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgcl_cli.artefacts import failed_batch, reading
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.feed import Fed, Feed
from sgcl_cli.engine.fit import NotFiniteError, Position, cosine, fit
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.engine.loader import Batch, Failed, Loader, StoredPatches, covering_order, epoch_order
from sgcl_cli.engine.networks import Embedded, KeyNetworks, Networks, compiled
from sgcl_cli.engine.optimisers import make_optimiser
from sgcl_cli.engine.ranks import (
    Ranks,
    distributed,
    joint_commit,
    joint_refit,
    joint_total,
    synchronised,
)
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import Views, make_views, settings_from
from sgcl_cli.errors import ElsewhereError, Interrupted, SgclError, TrainingError
from sgcl_cli.method.sgcl import SGCL, Losses, Settings, bytes_needed, ramp
from sgcl_cli.nets.resnet import Projector
from sgcl_cli.progress import Reporter, Task
from sgcl_cli.stages.encoders import Start, build_start
from sgcl_cli.stages.pretrain.log import MetricsLog, Tally
from sgcl_cli.stages.pretrain.monitor import Watch, bank_health
from sgcl_cli.stages.pretrain.probe import Probe
from sgcl_cli.stages.pretrain.state import Checkpoints, State
from sgcl_cli.stages.pretrain.warnings import about_corpus, about_epoch

_LAUNCHER_REPEATS = 2.0  # seconds


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
        ranks: Ranks,
    ) -> None:
        self.config, self.index, self.runtime, self.run_id, self.reporter = config, index, runtime, run_id, reporter
        self.start, self.ranks, self._mine = start, ranks, ranks.share(config.batch)
        workers = engine.loading_workers(config.workers, runtime, ranks.local_count)
        share = config.batch // ranks.count
        self.loader = Loader(StoredPatches(index), batch=share, workers=workers, pin=runtime.on_cuda)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        """What comes after the loader, whose processes must not have banks and networks in their memory."""
        config, index, runtime, reporter, ranks = self.config, self.index, self.runtime, self.reporter, self.ranks
        self.out = Path(config.out)
        self._writes = ranks.first and not config.dry_run
        self.views = settings_from(config, index.patch_size)
        self.steps_per_epoch = len(index) // config.batch
        self.total_steps = config.epochs * self.steps_per_epoch
        self.settings, self.warnings = _settings(config).resolve(len(index), config.epochs, config.batch)
        for warning in self.warnings:
            reporter.warn(warning)
        self.state = self._begin()
        self.model: nn.Module = self.state.networks
        self.feed = Feed(self.loader, runtime)
        self.checkpoints = Checkpoints(config, index, self.start, self.run_id)
        self.log = MetricsLog(self.out, writes=self._writes)
        self.watch = Watch(config, runtime, self.log, ranks)
        self.probe = self._probe()
        self.warn(about_corpus(self.state.objective))
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
        if config.sync_bn:
            synchronised(networks, self.ranks, runtime)
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
            lr=config.peak_lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=runtime.on_cuda,
        )
        return State(networks, KeyNetworks(networks) if config.base == "moco" else None, objective, optimiser)

    def _check_memory(self, hidden_dim: int) -> None:
        """Say what banks and lists take, and refuse what cannot fit before anything of it is allocated."""
        n, sizes = len(self.index), {"dim": self.config.projection, "hidden_dim": hidden_dim}
        needed, free = bytes_needed(self.settings, n, **sizes), engine.free_bytes(self.runtime)
        copies = 1 if self.runtime.on_cuda else self.ranks.local_count
        per_million = bytes_needed(self.settings, 10**6, **sizes)
        self.reporter.note(
            f"banks and lists: {needed / 2**30:.2f} GiB for {n:,} patches ({per_million / 2**30:.1f} GiB a million)"
        )
        if free is not None and needed * copies > free:
            raise TrainingError(
                f"banks and lists for {n:,} patches need {needed / 2**30:.1f} GiB, {self.runtime.device} has "
                f"{free / 2**30:.1f} GiB free",
                "use --bank-dtype bfloat16, --ranking v (needs no bank of h), or a GPU with more memory",
            )

    def close(self) -> None:
        """End the processes that decode; who made the run does so."""
        self.loader.close()

    def connect(self) -> None:
        """Make ``model``, by which the networks are called: compiled where asked, gradients averaged over the ranks."""
        self.model = distributed(
            compiled(self.state.networks) if self.config.compile else self.model, self.ranks, self.runtime
        )

    # What engine.fit asks for.

    def begin_epoch(self, position: Position) -> None:
        """Training mode; from the second epoch on, new clusters."""
        self.state.networks.train()
        if position.epoch > 0 and position.within == 0 and self.settings.clustered:
            started = time.perf_counter()
            report = joint_refit(self.state.objective, self.ranks, position.epoch)
            self.log.write({"step": position.step, "clusters": {**report, "seconds": time.perf_counter() - started}})

    def batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """This rank's share of the batches of an epoch, from a position on."""
        for fed in self.feed.batches(self.order(epoch, start), partial(self.draw, epoch)):
            self.ranks.agree(fed.error if isinstance(fed, Failed) else None)
            assert isinstance(fed, Fed)
            yield fed

    def order(self, epoch: int, start: int = 0) -> list[NDArray[np.int64]]:
        """The patches of each batch of an epoch, this rank's share of them."""
        order = epoch_order(len(self.index), self.config.batch, self.config.seed, epoch, start)
        return [whole[self._mine] for whole in order]

    def draw(self, epoch: int, patches: Tensor, index: NDArray[np.int64]) -> Views:
        """The views of a batch in an epoch."""
        corners, second = self.settings.inner, self.state.keys is not None
        return make_views(
            patches, index, settings=self.views, seed=self.config.seed, epoch=epoch, corners=corners, second=second
        )

    def loss(self, batch: Fed, position: Position) -> Tensor:
        """The objective of a batch; what the banks take afterwards is kept for ``stepped``."""
        self._asked = time.perf_counter() - engine.WAITED.seconds
        state, views = self.state, batch.views
        query: Embedded = self.model(views.whole, views.corners)
        keys = None if state.keys is None else state.keys.keys_of(views)
        self.embedded = (keys or query).detached()
        self._losses: Losses = state.objective.losses(
            batch.index,
            query.v,
            query.h.detach(),
            query.corners,
            epoch=self.epochs_at(position),
            step=position.step,
            key_BD=None if keys is None else keys.v,
        )
        self.batch = batch
        total = joint_total(self._losses, self.ranks)
        self.feed.look_ahead()
        return total

    def stepped(self, batch: Fed, position: Position) -> None:
        """Move the banks and the key networks, count and log the step, and write the checkpoint that is due."""
        state, new = self.state, self.embedded
        joint_commit(state.objective, self.ranks, batch.index, new.v, new.h, new.corners)
        if state.keys is not None:
            state.keys.follow(state.networks, self.settings.key_momentum)
        state.position = position
        host = time.perf_counter() - engine.WAITED.seconds - self._asked
        waits = {"data_wait": round(batch.waited, 6), "host_seconds": round(host, 6)}
        known = {"step": position.step, **self._schedule(position), **waits}
        self.watch.step(known, self._losses, new.v)
        if self.watch.due:
            self._read(wait=not self.runtime.on_cuda)
        if self._bar is not None:
            self._bar.advance()
        if self.checkpoints.due:
            self.save()

    def _read(self, *, wait: bool = True) -> None:
        """Take the numbers of steps from the device, and show the last; of all steps up to now where it may ``wait``.

        :raises NotFiniteError: the loss of one was not finite.
        """
        state, last = self.state, self.watch.read(self.state.tally, self.state.seen, wait=wait)
        if self.watch.not_finite is not None:
            before = self.watch.not_finite - 1
            raise NotFiniteError(math.nan, Position(*divmod(before, self.steps_per_epoch), before))
        if self._bar is not None and last is not None:
            waiting = last["data_wait"] * last["images_per_second"] / self.config.batch
            self._bar.update(
                note=f"epoch {state.position.epoch + 1}/{self.config.epochs} loss {last['loss']['total']:.3f}, "
                f"{last['images_per_second']:.0f} images/s, {min(1.0, waiting):.0%} waiting for data"
            )

    def _schedule(self, position: Position) -> dict[str, float]:
        epochs = self.epochs_at(position)
        return {
            "epoch": round(epochs, 6),
            "lr": self.state.optimiser.param_groups[0]["lr"],
            "ramp": ramp(epochs, self.settings.ramp_epochs or 0.0),
        }

    def end_epoch(self, position: Position) -> bool:
        """Close the epoch's means, score the encoder where a probe is due, and write a checkpoint."""
        state = self.state
        state.position = position
        self._read()
        state.epoch_means, state.tally = state.tally.means(), Tally()
        seen, state.seen = {**state.seen.means(), **bank_health(state.objective, position.epoch)}, Tally()
        means = {"loss": state.epoch_means, **seen}
        self.warn_of({"epoch": position.epoch, **means})
        scored = self._score()
        self.watch.summary(position.step, position.epoch, {**means, **scored})
        self.save()
        self.watch.start_clock()
        return False

    def _probe(self) -> Probe | None:
        """The probe, where one is asked for; whose labels it uses is kept with every encoder that this run writes."""
        if self.config.probe is None:
            return None
        card = self.checkpoints.card(self.state)
        probe = Probe(self.config, self.index, self.runtime, card.input_size)
        self.checkpoints.probe_slides = probe.labelled.slides
        self.reporter.note(f"probe: {probe.labelled.describe()}")
        return probe

    def _score(self) -> dict[str, Any]:
        """What the probe says after this epoch; an encoder better than all before becomes best.pt."""
        state, epoch = self.state, self.state.position.epoch
        due = epoch == self.config.epochs or epoch % self.config.probe_every == 0
        if self.probe is None or not self._writes or not due:
            return {}
        score = self.probe.score(self.checkpoints.card(state), state.networks.encoder)
        accuracy = score["balanced_accuracy"]
        if state.best is None or accuracy > state.best:
            state.best = accuracy
            self.checkpoints.save_best(state, {"epoch": epoch, **score})
        self.reporter.note(
            f"epoch {epoch}: the probe's balanced accuracy is {accuracy:.3f}, chance is {score['chance']:.3f}"
        )
        return {"probe": score}

    def warn_of(self, summary: Mapping[str, Any]) -> None:
        """Say what the means of an epoch call for."""
        self.warn(about_epoch(summary, self.settings, dim=self.config.projection, epochs=self.config.epochs))

    def warn(self, messages: list[str]) -> None:
        """Say it now, and keep it for run.json; what differs only after the colon is said once."""
        for message in messages:
            if message.partition(":")[0] not in {said.partition(":")[0] for said in self.warnings}:
                self.warnings.append(message)
                self.reporter.warn(message)

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
        with reading.understood(self.log.path, "remove it: the curves begin anew"):
            for summary in self.log.summaries():
                self.warn_of(summary)

    @torch.no_grad()
    def fill_banks(self) -> None:
        """Replace every random row of the banks by what the untrained networks make of the patches, in views of no epoch.

        Random rows pull the first epoch's embeddings to nowhere and, met once an epoch, are the oldest ones when their
        patches come: on few patches v drifts into one direction. A pass without gradient spares that.
        """
        state, beyond = self.state, self.config.epochs
        state.networks.train()
        order = covering_order(len(self.index), self.config.batch, self.config.seed, beyond)
        for fed in self.feed.batches([whole[self._mine] for whole in order], partial(self.draw, beyond)):
            self.ranks.agree(fed.error if isinstance(fed, Failed) else None)
            assert isinstance(fed, Fed)
            query: Embedded = self.model(fed.views.whole, fed.views.corners)
            new = (query if state.keys is None else state.keys.keys_of(fed.views)).detached()
            joint_commit(state.objective, self.ranks, fed.index, new.v, new.h, new.corners, momentum=1.0)
            self.feed.look_ahead()

    def train(self) -> None:
        """Run to the last epoch, or until a signal asks to stop; all ranks stop after the same step.

        :raises TrainingError: the loss is not finite; the message names the last good checkpoint and the batch.
        :raises Interrupted: by a signal to any rank.
        """
        self.checkpoints.start_clock()
        self._started = time.perf_counter()
        if self.config.tensorboard and self._writes:
            self.watch.open_board(self.out / "tensorboard", self.state.position.step)
        if self.config.bank_start == "encoded" and self.state.position.step == 0:
            self.fill_banks()
        self.watch.start_clock()
        settle = _LAUNCHER_REPEATS if self.ranks.count > 1 else 0.0
        bar = self.reporter.task("pretrain", self.total_steps, "steps")
        with closing(self.watch), StopRequest(settle) as stop, bar as self._bar:
            self._bar.advance(self.state.position.step)
            signum = 0

            def asked() -> bool:
                nonlocal signum
                signum = self.ranks.largest(stop.signum or 0)
                return signum > 0

            try:
                fit(
                    self,
                    self.state.optimiser,
                    epochs=self.config.epochs,
                    lr=cosine(self.config.peak_lr, self.total_steps),
                    start=self.state.position,
                    stop=asked,
                    joint=self.ranks.mean,
                )
            except NotFiniteError as error:
                raise self._not_finite(error) from error
            if signum and self.state.position.epoch < self.config.epochs:
                if self.checkpoints.took <= self.config.grace:
                    self.save()
                self.ranks.agree()
                raise Interrupted(signum, told=not self.ranks.first)
        self.trained_seconds = self.seconds()

    def _not_finite(self, error: NotFiniteError) -> SgclError:
        """The error that names what a person needs to look into it: the last good checkpoint, and the batch, saved."""
        at = error.position
        again = next(self.loader.batches(self.order(at.epoch, at.within)[:1]))
        self.ranks.agree(again.error if isinstance(again, Failed) else None)
        assert isinstance(again, Batch)
        patches, index = self.ranks.gather(again.patches), self.ranks.gather(torch.from_numpy(again.index))
        if not self.ranks.first:
            return ElsewhereError()
        last = self.checkpoints.last
        good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        if not self._writes:
            return TrainingError(error.message, f"{error.hint}; {good}")
        batch = self.out / failed_batch.NAME
        slides = [self.index.slide_ids[slide] for slide in self.index.slide_of[index.numpy()]]
        where = {"step": at.step, "epoch": at.epoch}
        failed_batch.save_failed_batch(batch, patches.numpy(), index.numpy(), slides, **where)
        return TrainingError(error.message, f"{error.hint}; {good}; the batch is in {batch}")

    def seconds(self) -> float:
        """Seconds of training so far, earlier parts of an interrupted run included."""
        return self.state.seconds + time.perf_counter() - self._started

    def save(self) -> None:
        """Write last.pt, after the lines of metrics.jsonl that lead up to it; rank 0 does, and a dry run does not."""
        self._read()
        if self._writes:
            self.log.flush()
            self.checkpoints.save(self.state, self.seconds())


def _settings(config: PretrainConfig) -> Settings:
    """The options that are settings of the objective, under the same names."""
    shared = {spec.name for spec in fields(Settings)} & {spec.name for spec in fields(config)}
    return Settings(**{name: getattr(config, name) for name in shared})


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON values."""
    return {spec.name: getattr(settings, spec.name) for spec in fields(settings)}
