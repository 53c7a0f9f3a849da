"""The dry run of pretraining: what a run would take, nothing written."""

from __future__ import annotations

import time

from sgcl_cli.artefacts.results import Outcome
from sgcl_cli.engine.fit import cosine, fit
from sgcl_cli.stages.pretrain_run import Run, plain

_STEPS = 2


def try_out(run: Run) -> Outcome:
    """Two steps of a run that was just built."""
    marks = [time.perf_counter()]

    def enough() -> bool:
        marks.append(time.perf_counter())
        return len(marks) > _STEPS

    fit(run, run.state.optimiser, epochs=1, lr=cosine(run.config.lr, run.total_steps), stop=enough)
    seconds = marks[-1] - marks[-2]
    data = {
        "patches": len(run.index),
        "slides": len(run.index.files),
        "steps": run.total_steps,
        "seconds_per_step": seconds,
        "expected_hours": seconds * run.total_steps / 3600,
        "objective": plain(run.settings),
    }
    headline = [
        ("patches", f"{len(run.index):,} of {len(run.index.files)} slides"),
        ("steps", f"{run.total_steps:,}"),
        ("seconds per step", f"{seconds:.2f}"),
        ("expected hours", f"{data['expected_hours']:.2f}"),
    ]
    return Outcome("pretrain", run.out, headline, warnings=run.warnings, data=data)
