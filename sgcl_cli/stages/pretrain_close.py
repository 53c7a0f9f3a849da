"""The end of pretraining: the encoder exported, the curves drawn, the run recorded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import save_encoder
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.stages.pretrain_run import Run, plain

_NOTHING_LEARNED = 0.02  # nats


def close(run: Run, record: RunRecord) -> Outcome:
    """Export the encoder, draw the curves, list the slides, write run.json."""
    state, out = run.state, run.out
    card = save_encoder(out, run.checkpoints.card(state), state.networks.encoder.state_dict())
    warnings = [*run.warnings, *_judge(run), *_draw(run)]
    _list_slides(run)
    data = {
        "id": run.run_id,
        "patches": len(run.index),
        "slides": len(run.index.files),
        "epochs": state.position.epoch,
        "steps": state.position.step,
        "last_epoch": {"loss": state.epoch_means},
        "images_per_second": state.position.step * run.config.batch / run.trained_seconds,
        "encoder_sha256": card.sha256,
        "objective": plain(run.settings),
    }
    outcome = Outcome("pretrain", out, headline(out, data), warnings=warnings, data=data)
    record.write(out, artefact=run.run_id, inputs={"patches": run.index.id, **run.start.settings}, outcome=outcome)
    return outcome


def headline(out: Path, data: dict[str, Any]) -> list[tuple[str, str]]:
    """The closing table of a run that is complete."""
    last = data["last_epoch"]
    terms = "  ".join(f"{name} {value:.3f}" for name, value in last["loss"].items() if value is not None)
    return [
        ("patches", f"{data['patches']:,} of {data['slides']} slides"),
        ("epochs", f"{data['epochs']}, {data['steps']:,} steps"),
        ("loss, last epoch", terms),
        ("images per second", f"{data['images_per_second']:.1f}"),
        ("encoder", str(out / "encoder.safetensors")),
    ]


def _list_slides(run: Run) -> None:
    store.write_csv(
        run.out / "slides.csv",
        ("slide_id", "patches", "identity", "patches_id"),
        [
            {"slide_id": f.slide_id, "patches": len(f), "identity": f.source.get("identity", ""), "patches_id": f.id}
            for f in run.index.files
        ],
    )


def _judge(run: Run) -> list[str]:
    """A warning where the self term ended where equal similarities put it: at the logarithm of its candidates."""
    settings, moco = run.settings, run.state.keys is not None
    compared = 1 + int((settings.queue if moco else settings.uniform_negatives) or 0)
    reached = run.state.epoch_means.get("self", 0.0)
    if settings.weight_self == 0 or abs(reached - math.log(compared)) > _NOTHING_LEARNED:
        return []
    warning = (
        f"the self term ended at {reached:.3f}, where ln({compared}) = {math.log(compared):.3f} means that it learned "
        "nothing: use a lower --lr for small batches, weaker views, or more epochs"
    )
    run.reporter.warn(warning)
    return [warning]


def _draw(run: Run) -> list[str]:
    from sgcl_cli.report.curves import draw_curves, read_metrics

    try:
        draw_curves(read_metrics(run.log.path), run.out / "curves.png")
    except ImportError:
        warning = "matplotlib is not installed: curves.png is skipped; metrics.jsonl has its numbers"
        run.reporter.warn(warning)
        return [warning]
    return []
