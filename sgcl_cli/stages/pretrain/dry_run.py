"""The dry run of pretraining: the time and memory that a run would take and what limits it; nothing is written."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.results import Outcome, peak_memory_mib
from sgcl_cli.engine.fit import cosine, fit
from sgcl_cli.engine.loader import Failed, Loader
from sgcl_cli.engine.ranks import joint_refit
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.progress import Reporter, Task
from sgcl_cli.stages.pretrain.step import encoder_step, objective_step
from sgcl_cli.stages.pretrain.training import Pretraining

_STEPS = 2
_MORE = 5  # steps, where they are cheap
_CHEAP = 1.0  # seconds
_MEASUREMENTS = 6  # clusters, steps, views, encoder, objective, data


@dataclass(frozen=True)
class Cost:
    """Seconds of a step and of its parts, each part measured alone.

    :ivar first: the first step, with one-time initialisation.
    :ivar step: a later step.
    :ivar data: decoding a batch.
    :ivar views: augmentation, on the device.
    :ivar encoder: forward, backward and optimiser, on the device.
    :ivar objective: losses, backward and commit, on the device.
    :ivar host: this process, until it has queued these three on the device; on a CPU their sum.
    """

    first: float
    step: float
    data: float
    views: float
    encoder: float
    objective: float
    host: float

    @property
    def device(self) -> float:
        """Time of the device for a step."""
        return self.views + self.encoder + self.objective

    @property
    def pieces(self) -> dict[str, float]:
        """The parts by name."""
        return {name: getattr(self, name) for name in ("data", "views", "encoder", "objective", "host")}

    @property
    def bound(self) -> str:
        """The bottleneck: data, the host, or the longest part on the device."""
        pieces = self.pieces
        if self.device >= max(self.data, self.host):
            return max(("views", "encoder", "objective"), key=pieces.__getitem__)
        return max(("data", "host"), key=pieces.__getitem__)


def try_out(training: Pretraining, reporter: Reporter) -> Outcome:
    """Run two steps of a new training, five more if they are cheap, then its parts one by one."""
    experiment, objective = training.experiment, training.state.objective
    clustering, memory = 0.0, partial(_memory, experiment.runtime)
    with reporter.task("dry run", _MEASUREMENTS, "measurements") as bar:
        if objective.refits:
            clustering = experiment.runtime.seconds_of(lambda: joint_refit(objective, experiment.ranks, 0))
        bar.advance()
        cost = measure(training, bar)
    seconds = cost.step * experiment.total_steps + clustering * (experiment.config.epochs - 1)
    data = {
        "patches": len(experiment.index),
        "slides": len(experiment.index.files),
        "steps": experiment.total_steps,
        "seconds_first_step": cost.first,
        "seconds_per_step": cost.step,
        "seconds_of": {**cost.pieces, "clusters": clustering},
        "bound": cost.bound,
        "images_per_second": experiment.config.batch / cost.step,
        "expected_hours": seconds / 3600,
        "memory": memory(),
        "objective": asdict(experiment.settings),
    }
    pieces = ", ".join(f"{name} {took:.3f}" for name, took in cost.pieces.items())
    headline = [
        ("patches", f"{len(experiment.index):,} of {len(experiment.index.files)} slides"),
        ("steps", f"{experiment.total_steps:,}"),
        ("seconds per step", f"{cost.step:.3f}; alone: {pieces}"),
        ("bound by", cost.bound),
        ("clusters", f"{clustering:.1f} s an epoch"),
        ("images per second", f"{data['images_per_second']:.1f}"),
        ("memory", ", ".join(f"{name} {taken / 2**30:.2f} GiB" for name, taken in memory().items())),
        ("expected hours", f"{data['expected_hours']:.2f}"),
    ]
    return Outcome("pretrain", experiment.out, headline, warnings=training.warnings.messages, data=data)


def measure(training: Pretraining, bar: Task) -> Cost:
    """Measure the cost of a step. Weights and banks of the training change; all ranks do the same."""
    experiment, runtime = training.experiment, training.experiment.runtime
    marks = [time.perf_counter()]

    def enough() -> bool:
        runtime.wait()
        marks.append(time.perf_counter())
        bar.update(note=f"{len(marks) - 1} steps")
        if len(marks) <= _STEPS:
            return False
        cheap = experiment.ranks.of_first(marks[2] - marks[1] < _CHEAP)
        return not cheap or len(marks) > _STEPS + _MORE

    epochs, schedule = experiment.config.epochs, cosine(experiment.config.peak_lr, experiment.total_steps)
    fit(training, training.state.optimiser, epochs=epochs, lr=schedule, stop=enough, joint=experiment.ranks.mean)
    bar.advance()
    first, *steps = [later - earlier for earlier, later in itertools.pairwise(marks)]
    repeats = 3 if len(steps) > _STEPS else 1
    step, found, batch = training.step, training.found, training.found.fed.batch
    patches = batch.patches.to(runtime.device)
    parts = []
    for part in (
        lambda: experiment.draw(0, patches, batch.index),
        lambda: encoder_step(step, found),
        lambda: objective_step(step, found),
    ):
        parts.append(runtime.spent(part, repeats))
        bar.advance()
    views, encoder, objective = parts
    loading = _loading(training.loader, experiment.order(0))
    bar.advance()
    return Cost(
        first=first,
        step=statistics.median(steps) if steps else first,
        data=loading,
        views=views.device,
        encoder=encoder.device,
        objective=objective.device,
        host=views.host + encoder.host + objective.host,
    )


def _loading(loader: Loader, order: list[NDArray[np.int64]]) -> float:
    """Seconds to decode a batch while nothing else uses the cores."""
    marks = []
    for batch in loader.batches([order[number % len(order)] for number in range(_STEPS + _MORE)]):
        if isinstance(batch, Failed):
            raise batch.error
        marks.append(time.perf_counter())
    return (marks[-1] - marks[1]) / (len(marks) - 2)


def _memory(runtime: Runtime) -> dict[str, Any]:
    """Peak memory, bytes: of this process, and of tensors on the GPU."""
    taken = {"process": int(peak_memory_mib()["process"] * 2**20)}
    on_gpu = runtime.most_memory()
    if on_gpu is not None:
        taken.update({"GPU": on_gpu[0], "GPU in all": on_gpu[1]})
    return taken
