"""One training run: the callbacks of ``engine.fit``, built from loader, step, log, probe and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.artefacts import reading
from sgcl_cli.engine.feed import Fed, Feed
from sgcl_cli.engine.fit import NotFiniteError, Position, cosine, fit
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.engine.loader import Failed, Loader
from sgcl_cli.engine.ranks import joint_refit
from sgcl_cli.errors import Interrupted
from sgcl_cli.progress import Reporter, Task
from sgcl_cli.stages.pretrain.experiment import Experiment
from sgcl_cli.stages.pretrain.failure import not_finite
from sgcl_cli.stages.pretrain.log import MetricsLog, Tally
from sgcl_cli.stages.pretrain.monitor import Watch, bank_health
from sgcl_cli.stages.pretrain.probe import Probe
from sgcl_cli.stages.pretrain.state import Checkpoints, State
from sgcl_cli.stages.pretrain.step import Step, StepResult
from sgcl_cli.stages.pretrain.warnings import Warnings, about_corpus, about_epoch

_LAUNCHER_REPEATS = 2.0  # seconds


class Pretraining:
    """Trains the state of an experiment, and logs it.

    :param loader: of the experiment, started before the state was made.
    :ivar found: the result of the last step.
    """

    found: StepResult

    def __init__(
        self, experiment: Experiment, state: State, loader: Loader, *, reporter: Reporter, warnings: Warnings
    ) -> None:
        self.experiment, self.state, self.loader, self.warnings = experiment, state, loader, warnings
        config, index, runtime = experiment.config, experiment.index, experiment.runtime
        self.feed = Feed(loader, runtime)
        self.checkpoints = Checkpoints(config, index, experiment.start, experiment.run_id)
        self.log = MetricsLog(experiment.out, writes=experiment.writes)
        self._watch = Watch(config, runtime, self.log, experiment.ranks)
        self._reporter = reporter
        self.probe = self._probe()
        self._started = time.perf_counter()
        self._bar: Task | None = None
        self.step = Step(experiment, state, state.networks)
        warnings.show(about_corpus(state.objective))

    def connect(self) -> None:
        """Compile and wrap the networks as configured; all ranks call it together."""
        self.step = Step.of(self.experiment, self.state)

    # Callbacks of engine.fit.

    def begin_epoch(self, position: Position) -> None:
        """Set training mode; from the second epoch on, fit the clusters again."""
        objective = self.state.objective
        self.state.networks.train()
        if position.epoch > 0 and position.within == 0 and objective.refits:
            started = time.perf_counter()
            report = joint_refit(objective, self.experiment.ranks, position.epoch)
            self.log.write({"step": position.step, "clusters": {**report, "seconds": time.perf_counter() - started}})

    def batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """This rank's share of the batches of an epoch, starting at batch ``start``."""
        return self._fed(self.experiment.order(epoch, start), epoch)

    def _fed(self, order: list[NDArray[np.int64]], epoch: int) -> Iterator[Fed]:
        for fed in self.feed.batches(order, partial(self.experiment.draw, epoch)):
            self.experiment.ranks.agree(fed.error if isinstance(fed, Failed) else None)
            assert isinstance(fed, Fed)
            yield fed

    def loss(self, batch: Fed, position: Position) -> Tensor:
        """The total loss of a batch."""
        self.found = self.step(batch, position)
        self.feed.look_ahead()
        return self.found.total

    def stepped(self, batch: Fed, position: Position) -> None:
        """Commit and log the step, and write a checkpoint if one is due."""
        state, found, epochs = self.state, self.found, self.experiment.epochs_at(position)
        self.step.commit(found)
        state.position = position
        known = {
            "step": position.step,
            "epoch": round(epochs, 6),
            "lr": state.optimiser.param_groups[0]["lr"],
            **state.objective.schedule(epochs),
            "data_wait": round(batch.waited, 6),
            "host_seconds": round(found.host_seconds, 6),
        }
        self._watch.step(known, found.losses, found.new.v)
        if self._watch.due:
            self._read(wait=not self.experiment.runtime.on_cuda)
        if self._bar is not None:
            self._bar.advance()
        if self.checkpoints.due:
            self.save()

    def end_epoch(self, position: Position) -> bool:
        """Log the means of the epoch, run the probe if it is due, and write a checkpoint."""
        state = self.state
        state.position = position
        self._read()
        state.epoch_means, state.tally = state.tally.means(), Tally()
        seen, state.seen = {**state.seen.means(), **bank_health(state.objective, position.epoch)}, Tally()
        means = {"loss": state.epoch_means, **seen}
        self._warn_of({"epoch": position.epoch, **means})
        scored = self._score()
        self._watch.summary(position.step, position.epoch, {**means, **scored})
        self.save()
        self._watch.start_clock()
        return False

    def _read(self, *, wait: bool = True) -> None:
        """Read the numbers of steps from the device, and show the last; with ``wait`` those of all steps so far.

        :raises NotFiniteError: the loss of one was not finite.
        """
        state, config = self.state, self.experiment.config
        last = self._watch.read(state.tally, state.seen, wait=wait)
        if self._watch.not_finite is not None:
            before = self._watch.not_finite - 1
            raise NotFiniteError(math.nan, Position(*divmod(before, self.experiment.steps_per_epoch), before))
        if self._bar is not None and last is not None:
            waiting = last["data_wait"] * last["images_per_second"] / config.batch
            self._bar.update(
                note=f"epoch {state.position.epoch + 1}/{config.epochs} loss {last['loss']['total']:.3f}, "
                f"{last['images_per_second']:.0f} images/s, {min(1.0, waiting):.0%} waiting for data"
            )

    def _warn_of(self, summary: dict[str, Any]) -> None:
        """Show the warnings that follow from the means of an epoch."""
        config = self.experiment.config
        found = about_epoch(summary, self.state.objective, dim=config.projection, epochs=config.epochs)
        self.warnings.show(found)

    # The probe.

    def _probe(self) -> Probe | None:
        """The probe, if configured; the slides whose labels it uses are recorded with every encoder of this run."""
        experiment = self.experiment
        if experiment.config.probe is None:
            return None
        card = self.checkpoints.card(self.state)
        probe = Probe(experiment.config, experiment.index, experiment.runtime, card.input_size)
        self.checkpoints.probe_slides = probe.labelled.slides
        self._reporter.note(f"probe: {probe.labelled.describe()}")
        return probe

    def _score(self) -> dict[str, Any]:
        """Run the probe if it is due; an encoder better than all before is saved as best.pt."""
        state, config, epoch = self.state, self.experiment.config, self.state.position.epoch
        due = epoch == config.epochs or epoch % config.probe_every == 0
        if self.probe is None or not self.experiment.writes or not due:
            return {}
        score = self.probe.score(self.checkpoints.card(state), state.networks.encoder)
        accuracy = score["balanced_accuracy"]
        if state.best is None or accuracy > state.best:
            state.best = accuracy
            self.checkpoints.save_best(state, {"epoch": epoch, **score})
        self._reporter.note(
            f"epoch {epoch}: the probe's balanced accuracy is {accuracy:.3f}, chance is {score['chance']:.3f}"
        )
        return {"probe": score}

    # Pretraining, checkpoints.

    def resume(self) -> None:
        """Resume from last.pt, if it exists.

        :raises ConfigError: it was made under other settings, or on other patches; the message says which.
        """
        if self.checkpoints.resume(self.state):
            self._reporter.note(f"going on from step {self.state.position.step} of {self.checkpoints.last}")
        self.log.trim(self.state.position.step)
        with reading.understood(self.log.path, "remove it: the curves begin anew"):
            for summary in self.log.summaries():
                self._warn_of(summary)

    def _fill_banks(self) -> None:
        """Fill the banks with embeddings of all patches by the untrained networks.

        A random row stays until its patch is drawn, up to an epoch, and pulls embeddings in a random direction; on few patches v
        then drifts towards one direction. One pass without gradient avoids that.
        """
        self.state.networks.train()
        order = self.experiment.covering_order()
        with self._reporter.task("filling banks", len(order), "batches") as bar:
            for fed in self._fed(order, self.experiment.config.epochs):
                self.step.remember(fed)
                self.feed.look_ahead()
                bar.advance()

    def train(self) -> float:
        """Train to the last epoch, or until a signal; all ranks stop after the same step.

        :returns: seconds of training, including earlier parts of an interrupted run.
        :raises TrainingError: the loss is not finite; the message names the last good checkpoint and the batch.
        :raises Interrupted: by a signal to any rank.
        """
        experiment, state, config = self.experiment, self.state, self.experiment.config
        self.checkpoints.start_clock()
        self._started = time.perf_counter()
        if config.tensorboard and experiment.writes:
            self._watch.open_board(experiment.out / "tensorboard", state.position.step)
        if config.bank_start == "encoded" and state.objective.remembers and state.position.step == 0:
            self._fill_banks()
        self._watch.start_clock()
        settle = _LAUNCHER_REPEATS if experiment.ranks.count > 1 else 0.0
        bar = self._reporter.task("pretrain", experiment.total_steps, "steps")
        with closing(self._watch), StopRequest(settle) as stop, bar as self._bar:
            self._bar.advance(state.position.step)
            signum = self._fit(stop)
            if signum and state.position.epoch < config.epochs:
                if self.checkpoints.took <= config.grace:
                    self.save()
                experiment.ranks.agree()
                raise Interrupted(signum, reported=not experiment.ranks.first)
        return self._seconds()

    def _fit(self, stop: StopRequest) -> int:
        """Train until the epochs are done or any rank received a signal: its number, or 0."""
        experiment, signum = self.experiment, 0

        def asked() -> bool:
            nonlocal signum
            signum = experiment.ranks.largest(0 if stop.signum is None else stop.signum)
            return signum > 0

        try:
            fit(
                self,
                self.state.optimiser,
                epochs=experiment.config.epochs,
                lr=cosine(experiment.config.peak_lr, experiment.total_steps),
                start=self.state.position,
                stop=asked,
                joint=experiment.ranks.mean,
            )
        except NotFiniteError as error:
            raise not_finite(error, experiment, self.loader, last=self.checkpoints.last) from error
        return signum

    def _seconds(self) -> float:
        return self.state.seconds + time.perf_counter() - self._started

    def save(self) -> None:
        """Write last.pt, after the lines of metrics.jsonl before it; rank 0 only, and not in a dry run."""
        self._read()
        if self.experiment.writes:
            self.log.flush()
            self.checkpoints.save(self.state, self._seconds())
