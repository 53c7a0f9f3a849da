"""The error of a run whose loss is not finite, and the batch, which is saved."""

from __future__ import annotations

from pathlib import Path

import torch

from sgcl_cli.artefacts import failed_batch
from sgcl_cli.engine.fit import NotFiniteError
from sgcl_cli.engine.loader import Batch, Failed, Loader
from sgcl_cli.errors import ElsewhereError, SgclError, TrainingError
from sgcl_cli.stages.pretrain.experiment import Experiment


def not_finite(error: NotFiniteError, experiment: Experiment, loader: Loader, *, last: Path) -> SgclError:
    """Save the batch, decoded again, and return an error that names it and the last checkpoint; rank 0 does both.

    :param last: path of the last checkpoint, which may not exist.
    """
    at, ranks = error.position, experiment.ranks
    again = next(loader.batches(experiment.order(at.epoch, at.within)[:1]))
    ranks.agree(again.error if isinstance(again, Failed) else None)
    assert isinstance(again, Batch)
    patches, index = ranks.gather(again.patches), ranks.gather(torch.from_numpy(again.index))
    if not ranks.first:
        return ElsewhereError()
    good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
    if not experiment.writes:
        return TrainingError(error.message, f"{error.hint}; {good}")
    batch = experiment.out / failed_batch.NAME
    slides = [experiment.index.slide_ids[slide] for slide in experiment.index.slide_of[index.numpy()]]
    where = {"step": at.step, "epoch": at.epoch}
    failed_batch.save_failed_batch(batch, patches.numpy(), index.numpy(), slides, **where)
    return TrainingError(error.message, f"{error.hint}; {good}; the batch is in {batch}")
