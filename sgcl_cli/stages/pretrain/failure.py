"""What is left of a run whose loss is not finite: the batch, and an error that says where to look."""

from __future__ import annotations

from pathlib import Path

import torch

from sgcl_cli.artefacts import failed_batch
from sgcl_cli.engine.fit import NotFiniteError
from sgcl_cli.engine.loader import Batch, Failed, Loader
from sgcl_cli.errors import ElsewhereError, SgclError, TrainingError
from sgcl_cli.stages.pretrain.experiment import Experiment


def not_finite(error: NotFiniteError, experiment: Experiment, loader: Loader, *, last: Path) -> SgclError:
    """The error that names the last good checkpoint and the batch, which is decoded again and saved; on rank 0.

    :param last: where the last checkpoint is, if there is one.
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
