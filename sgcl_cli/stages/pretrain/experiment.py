"""The constants of a pretraining run, and its initial state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.loader import Loader, StoredPatches, covering_order, epoch_order
from sgcl_cli.engine.networks import KeyNetworks, Networks
from sgcl_cli.engine.optimisers import make_optimiser
from sgcl_cli.engine.ranks import Ranks, synchronised
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import Views, ViewSettings, make_views
from sgcl_cli.errors import TrainingError
from sgcl_cli.method.objective import Objective, WantedViews
from sgcl_cli.method.objectives import OBJECTIVES
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.settings import Settings
from sgcl_cli.nets.resnet import Projector
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.encoders import Start, build_start
from sgcl_cli.stages.pretrain.state import State
from sgcl_cli.stages.pretrain.warnings import TrainingWarning, WarningKind, Warnings


@dataclass(frozen=True)
class Experiment:
    """The constants of a run: settings, patches, device.

    :ivar config: the settings as given.
    :ivar index: the patches.
    :ivar start: the encoder that training starts from.
    :ivar run_id: identity of the run, a hash of settings and patches.
    :ivar runtime: device and precision.
    :ivar ranks: this process among those of the run.
    :ivar settings: of the objective, resolved for these patches.
    :ivar views: of the augmentation.
    """

    config: PretrainConfig
    index: PatchIndex
    start: Start
    run_id: str
    runtime: Runtime
    ranks: Ranks
    settings: Settings
    views: ViewSettings

    @property
    def objective_class(self) -> type[Objective]:
        """The class of the objective."""
        return OBJECTIVES[self.config.base]

    @property
    def wanted_views(self) -> WantedViews:
        """The views that the objective needs."""
        return self.objective_class.wanted_views(self.settings)

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return Path(self.config.out)

    @property
    def writes(self) -> bool:
        """Whether this process writes files: rank 0 does, and a dry run does not."""
        return self.ranks.first and not self.config.dry_run

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the patches."""
        return len(self.index) // self.config.batch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    def epochs_at(self, position: Position) -> float:
        """A position in epochs, as a real number."""
        return position.epoch + position.within / self.steps_per_epoch

    def order(self, epoch: int, start: int = 0) -> list[NDArray[np.int64]]:
        """The patches of each batch of an epoch: this rank's share."""
        order = epoch_order(len(self.index), self.config.batch, self.config.seed, epoch, start)
        return self._own(order)

    def covering_order(self) -> list[NDArray[np.int64]]:
        """Batches that cover all patches, with the random numbers of the epoch after the last: this rank's share."""
        return self._own(covering_order(len(self.index), self.config.batch, self.config.seed, self.config.epochs))

    def _own(self, order: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        share = self.ranks.share(self.config.batch)
        return [whole[share] for whole in order]

    def draw(self, epoch: int, patches: Tensor, index: NDArray[np.int64]) -> Views:
        """The views of a batch in an epoch."""
        return make_views(
            patches,
            index,
            settings=self.views,
            seed=self.config.seed,
            epoch=epoch,
            corners=self.wanted_views.corners,
            second=self.wanted_views.second,
        )

    def loader(self) -> Loader:
        """Start the decoding processes; the caller closes the loader.

        They are forked, so call this before banks and networks are allocated, which would stay in their memory too.
        """
        workers = engine.loading_workers(self.config.workers, self.runtime, self.ranks.local_count)
        share = self.config.batch // self.ranks.count
        return Loader(StoredPatches(self.index), batch=share, workers=workers, pin=self.runtime.on_cuda)


def plan(
    config: PretrainConfig,
    index: PatchIndex,
    start: Start,
    *,
    run_id: str,
    runtime: Runtime,
    ranks: Ranks,
    warnings: Warnings,
) -> Experiment:
    """The experiment that follows from the settings.

    :raises ConfigError: the batch cannot be shared equally by the ranks.
    :raises TrainingError: there are too few patches.
    """
    ranks.share(config.batch)
    settings, clamped = resolve(config, len(index), config.epochs, config.batch)
    warnings.show(TrainingWarning(WarningKind.CLAMPED, message, subject=name) for name, message in clamped.items())
    return Experiment(
        config=config,
        index=index,
        start=start,
        run_id=run_id,
        runtime=runtime,
        ranks=ranks,
        settings=settings,
        views=ViewSettings.of(config, index.patch_size),
    )


def first_state(experiment: Experiment, reporter: Reporter) -> State:
    """The state before the first step, determined by the seed.

    :raises TrainingError: banks and lists do not fit into memory.
    """
    config, runtime, wanted = experiment.config, experiment.runtime, experiment.wanted_views
    sides = (experiment.views.view, experiment.views.corner) if wanted.corners else (experiment.views.view,)
    with engine.seeded(config.seed):
        encoder, width, fitted = build_start(experiment.start, sides)
        projector = Projector(width, config.projection)
    if fitted is not None:
        reporter.note(f"--init {config.init}: {fitted.describe()}")
    networks = Networks(encoder, projector, runtime)
    if config.sync_bn:
        synchronised(networks, experiment.ranks, runtime)
    _check_memory(experiment, width, reporter)
    objective = experiment.objective_class(
        experiment.settings,
        torch.from_numpy(experiment.index.slide_of),
        torch.from_numpy(experiment.index.cells),
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
    return State(networks, None if wanted.key_momentum is None else KeyNetworks(networks), objective, optimiser)


def _check_memory(experiment: Experiment, hidden_dim: int, reporter: Reporter) -> None:
    """Report the memory that the objective needs, and refuse to go on if there is too little, before it is allocated."""
    n, runtime = len(experiment.index), experiment.runtime

    def needed(patches: int) -> int:
        sizes = {"dim": experiment.config.projection, "hidden_dim": hidden_dim}
        return experiment.objective_class.bytes_needed(experiment.settings, patches, **sizes)

    free = engine.free_bytes(runtime)
    copies = 1 if runtime.on_cuda else experiment.ranks.local_count
    reporter.note(
        f"banks and lists: {needed(n) / 2**30:.2f} GiB for {n:,} patches ({needed(10**6) / 2**30:.1f} GiB a million)"
    )
    if free is not None and needed(n) * copies > free:
        raise TrainingError(
            f"banks and lists for {n:,} patches need {needed(n) / 2**30:.1f} GiB, {runtime.device} has "
            f"{free / 2**30:.1f} GiB free",
            "use --bank-dtype bfloat16, --ranking v (needs no bank of h), or a GPU with more memory",
        )
