"""The end of pretraining: the encoder exported, the curves drawn, the run recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import save_encoder
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.stages.pretrain.pictures import picture_curves, picture_neighbours
from sgcl_cli.stages.pretrain.training import Run, plain


def close(run: Run, record: RunRecord) -> Outcome:
    """Export the encoder, draw how it went, list the slides, write run.json."""
    state, out = run.state, run.out
    card = save_encoder(out, run.checkpoints.card(state), state.networks.encoder.state_dict())
    run.warn(picture_curves(run.log.path, out))
    run.warn(picture_neighbours(run.index, state.objective, out, step=state.position.step))
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
        "probe": _probe(run),
        "objective": plain(run.settings),
    }
    outcome = Outcome("pretrain", out, headline(out, data), warnings=run.warnings, data=data)
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
    """slides.csv: what the encoder has seen, and of which slides a probe used the labels."""
    probed = set() if run.probe is None else set(run.probe.labelled.slide_ids)
    store.write_csv(
        run.out / "slides.csv",
        ("slide_id", "patches", "identity", "patches_id", "probe"),
        [
            {
                "slide_id": f.slide_id,
                "patches": len(f),
                "identity": f.source.get("identity", ""),
                "patches_id": f.id,
                "probe": int(f.slide_id in probed),
            }
            for f in run.index.files
        ],
    )


def _probe(run: Run) -> dict[str, Any] | None:
    """What run.json says of the probe: its best score, and the slides or folders whose labels it used."""
    if run.probe is None:
        return None
    asked = run.probe.labelled
    return {
        "best": run.state.best,
        "patches": len(asked.rows),
        "classes": list(asked.names),
        "slides": list(asked.slides),
    }
