"""The end of pretraining: the encoder exported, the curves drawn, the run recorded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import save_encoder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.artefacts.results import Outcome, RunRecord
from sgcl_cli.stages.pretrain.pictures import picture_curves, picture_neighbours
from sgcl_cli.stages.pretrain.probe import Probe
from sgcl_cli.stages.pretrain.training import Pretraining


def close(training: Pretraining, record: RunRecord, *, seconds: float) -> Outcome:
    """Export the encoder, draw the pictures, list the slides, write run.json.

    :param seconds: of training.
    """
    experiment, state, warnings = training.experiment, training.state, training.warnings
    out, index = experiment.out, experiment.index
    card = save_encoder(out, training.checkpoints.card(state), state.networks.encoder.state_dict())
    warnings.show(picture_curves(training.log.path, out))
    warnings.show(picture_neighbours(index, state.objective, out, step=state.position.step))
    _list_slides(out, index, training.probe)
    data = {
        "id": experiment.run_id,
        "patches": len(index),
        "slides": len(index.files),
        "epochs": state.position.epoch,
        "steps": state.position.step,
        "last_epoch": {"loss": state.epoch_means},
        "images_per_second": state.position.step * experiment.config.batch / seconds,
        "encoder_sha256": card.sha256,
        "probe": None if training.probe is None else _probe(training.probe, state.best),
        "objective": asdict(experiment.settings),
    }
    outcome = Outcome("pretrain", out, headline(out, data), warnings=warnings.messages, data=data)
    inputs = {"patches": index.id, **experiment.start.settings}
    record.write(out, artefact=experiment.run_id, inputs=inputs, outcome=outcome)
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


def _list_slides(out: Path, index: PatchIndex, probe: Probe | None) -> None:
    """Write slides.csv: the slides of the run, and which of them a probe used labels of."""
    probed = set() if probe is None else set(probe.labelled.slide_ids)
    store.write_csv(
        out / "slides.csv",
        ("slide_id", "patches", "identity", "patches_id", "probe"),
        [
            {
                "slide_id": f.slide_id,
                "patches": len(f),
                "identity": f.source.get("identity", ""),
                "patches_id": f.id,
                "probe": int(f.slide_id in probed),
            }
            for f in index.files
        ],
    )


def _probe(probe: Probe, best: float | None) -> dict[str, Any]:
    """The probe in run.json: its best score, and the slides or folders whose labels it used."""
    asked = probe.labelled
    return {
        "best": best,
        "patches": len(asked.rows),
        "classes": list(asked.names),
        "slides": list(asked.slides),
    }
