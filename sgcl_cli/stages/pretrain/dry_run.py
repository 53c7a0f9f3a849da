"""The dry run of pretraining: what a run would take and what bounds it, nothing written."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sgcl_cli.artefacts.results import Outcome, peak_memory_mib
from sgcl_cli.engine.fit import cosine, fit
from sgcl_cli.engine.loader import Failed
from sgcl_cli.engine.ranks import joint_refit
from sgcl_cli.stages.pretrain.training import Run, plain

_STEPS = 2
_MORE = 5  # steps, where they are cheap
_CHEAP = 1.0  # seconds


@dataclass(frozen=True)
class Cost:
    """Seconds of a step and of its pieces, each measured alone; ``first`` is the first step, with all that is lazy.

    ``views``, ``encoder`` and ``objective`` are the device's, ``data`` is that of decoding a batch, ``host`` that of this process
    until it has asked the device for all three; on a CPU it is their sum.
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
        """What the device needs for a step."""
        return self.views + self.encoder + self.objective

    @property
    def pieces(self) -> dict[str, float]:
        """The pieces by name."""
        return {name: getattr(self, name) for name in ("data", "views", "encoder", "objective", "host")}

    @property
    def bound(self) -> str:
        """What takes longest: data, the host, or, where that is the device, its longest piece."""
        pieces = self.pieces
        if self.device >= max(self.data, self.host):
            return max(("views", "encoder", "objective"), key=pieces.__getitem__)
        return max(("data", "host"), key=pieces.__getitem__)


def try_out(run: Run) -> Outcome:
    """Two steps of a run that was just built, and five more where they are cheap; then its pieces one by one."""
    clustering = 0.0
    if run.settings.clustered:
        clustering = run.runtime.seconds_of(lambda: joint_refit(run.state.objective, run.ranks, 0))
    cost = measure(run)
    seconds = cost.step * run.total_steps + clustering * (run.config.epochs - 1)
    data = {
        "patches": len(run.index),
        "slides": len(run.index.files),
        "steps": run.total_steps,
        "seconds_first_step": cost.first,
        "seconds_per_step": cost.step,
        "seconds_of": {**cost.pieces, "clusters": clustering},
        "bound": cost.bound,
        "images_per_second": run.config.batch / cost.step,
        "expected_hours": seconds / 3600,
        "memory": _memory(run),
        "objective": plain(run.settings),
    }
    pieces = ", ".join(f"{name} {took:.3f}" for name, took in cost.pieces.items())
    headline = [
        ("patches", f"{len(run.index):,} of {len(run.index.files)} slides"),
        ("steps", f"{run.total_steps:,}"),
        ("seconds per step", f"{cost.step:.3f}; alone: {pieces}"),
        ("bound by", cost.bound),
        ("clusters", f"{clustering:.1f} s an epoch"),
        ("images per second", f"{data['images_per_second']:.1f}"),
        ("memory", ", ".join(f"{name} {taken / 2**30:.2f} GiB" for name, taken in _memory(run).items())),
        ("expected hours", f"{data['expected_hours']:.2f}"),
    ]
    return Outcome("pretrain", run.out, headline, warnings=run.warnings, data=data)


def measure(run: Run) -> Cost:
    """What a step costs. The weights and banks of the run change; all ranks do the same."""
    marks = [time.perf_counter()]

    def enough() -> bool:
        run.runtime.wait()
        marks.append(time.perf_counter())
        if len(marks) <= _STEPS:
            return False
        cheap = run.ranks.of_first(marks[2] - marks[1] < _CHEAP)
        return not cheap or len(marks) > _STEPS + _MORE

    schedule = cosine(run.config.peak_lr, run.total_steps)
    fit(run, run.state.optimiser, epochs=run.config.epochs, lr=schedule, stop=enough, joint=run.ranks.mean)
    first, *steps = [later - earlier for earlier, later in itertools.pairwise(marks)]
    repeats = 3 if len(steps) > _STEPS else 1
    spent, fed = run.runtime.spent, run.batch
    patches = fed.batch.patches.to(run.runtime.device)
    views = spent(lambda: run.draw(0, patches, fed.batch.index), repeats)
    encoder = spent(lambda: encoder_step(run), repeats)
    objective = spent(lambda: objective_step(run), repeats)
    return Cost(
        first=first,
        step=statistics.median(steps) if steps else first,
        data=_loading(run),
        views=views.device,
        encoder=encoder.device,
        objective=objective.device,
        host=views.host + encoder.host + objective.host,
    )


def encoder_step(run: Run) -> None:
    """Forward, backward and the optimiser's step on the views of the last batch; the learning rate is 0."""
    views = run.batch.views
    embedded = run.model(views.whole, views.corners)
    if run.state.keys is not None:
        run.state.keys.keys_of(views)
    for group in run.state.optimiser.param_groups:
        group["lr"] = 0.0
    run.state.optimiser.zero_grad(set_to_none=True)
    total: Tensor = embedded.v.mean() + (0.0 if embedded.corners is None else embedded.corners.mean())
    total.backward()  # type: ignore[no-untyped-call]
    run.state.optimiser.step()


def objective_step(run: Run) -> None:
    """The losses of the last batch's embedding, their gradient, and the banks' move."""
    objective, new = run.state.objective, run.embedded
    v, corners = new.v.clone().requires_grad_(), None if new.corners is None else new.corners.clone().requires_grad_()
    keys = None if run.state.keys is None else new.v
    losses = objective.losses(run.batch.index, v, new.h, corners, epoch=float(run.config.epochs), step=0, key_BD=keys)
    losses.total.backward()  # type: ignore[no-untyped-call]
    objective.commit(run.batch.index, new.v, new.h, new.corners)


def _loading(run: Run) -> float:
    """Seconds a batch that decoding takes when nobody else asks for the cores."""
    order = run.order(0)
    marks = []
    for batch in run.loader.batches([order[number % len(order)] for number in range(_STEPS + _MORE)]):
        if isinstance(batch, Failed):
            raise batch.error
        marks.append(time.perf_counter())
    return (marks[-1] - marks[1]) / (len(marks) - 2)


def _memory(run: Run) -> dict[str, Any]:
    """Bytes at the most: of this process, and of tensors on the GPU."""
    taken = {"process": int(peak_memory_mib()["process"] * 2**20)}
    on_gpu = run.runtime.most_memory()
    if on_gpu is not None:
        taken.update({"GPU": on_gpu[0], "GPU in all": on_gpu[1]})
    return taken
