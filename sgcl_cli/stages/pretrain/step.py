"""One step of pretraining: forward pass and losses of a batch, and the update of the objective's memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.feed import Fed
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.networks import compiled
from sgcl_cli.engine.ranks import distributed, joint_commit, joint_total
from sgcl_cli.engine.views import Views
from sgcl_cli.method.objective import Embedded, Losses
from sgcl_cli.stages.pretrain.experiment import Experiment
from sgcl_cli.stages.pretrain.state import State


@dataclass(frozen=True)
class StepResult:
    """The result of a step before its backward pass.

    :ivar fed: the batch.
    :ivar losses: of this rank's share.
    :ivar total: of this rank, with gradient; the mean over the ranks is the total of the joined batch.
    :ivar new: the embeddings for the objective's memory, without gradient.
    :ivar began: host time at its start, without waits, seconds.
    """

    fed: Fed
    losses: Losses
    total: Tensor
    new: Embedded
    began: float

    @property
    def host_seconds(self) -> float:
        """Seconds of the host since the step began, without waits for the device."""
        return _host_time() - self.began


def _host_time() -> float:
    return time.perf_counter() - engine.WAITED.seconds


@dataclass(frozen=True)
class Step:
    """The step of an experiment, which acts on a state.

    :ivar experiment: its constants.
    :ivar state: what it changes.
    :ivar networks: those of the state, possibly compiled and wrapped for several ranks.
    """

    experiment: Experiment
    state: State
    networks: nn.Module

    @classmethod
    def of(cls, experiment: Experiment, state: State) -> Step:
        """Compile the networks if configured, and average gradients over the ranks. All ranks call it together."""
        networks = compiled(state.networks) if experiment.config.compile else state.networks
        return cls(experiment, state, distributed(networks, experiment.ranks, experiment.runtime))

    def embed(self, views: Views) -> tuple[Embedded, Embedded | None]:
        """Embeddings of the views by the trained networks, and by the key networks, if there are any."""
        if self.state.keys is not None:
            return self.networks(views.whole, views.corners), self.state.keys.keys_of(views)
        return self.networks(views.whole, views.corners, views.second), None

    def __call__(self, fed: Fed, position: Position) -> StepResult:
        """The losses of a batch, from the current state."""
        began = _host_time()
        query, key = self.embed(fed.views)
        losses = self.state.objective.losses(
            fed.index,
            query._replace(h=query.h.detach()),
            key,
            epoch=self.experiment.epochs_at(position),
            step=position.step,
        )
        total = joint_total(losses, self.experiment.ranks)
        return StepResult(fed, losses, total, (query if key is None else key).detached(), began)

    def commit(self, found: StepResult) -> None:
        """After the optimiser's step: update the objective's memory and the key networks."""
        state, momentum = self.state, self.experiment.wanted_views.key_momentum
        joint_commit(state.objective, self.experiment.ranks, found.fed.index, found.new)
        if state.keys is not None and momentum is not None:
            state.keys.follow(state.networks, momentum)

    @torch.no_grad()
    def remember(self, fed: Fed) -> None:
        """Replace the objective's memory of these patches by their current embeddings."""
        query, key = self.embed(fed.views)
        new = (query if key is None else key).detached()
        joint_commit(self.state.objective, self.experiment.ranks, fed.index, new, momentum=1.0)


def encoder_step(step: Step, found: StepResult) -> None:
    """Forward, backward and the optimiser's step on the views of a batch; the learning rate is 0."""
    state = step.state
    query, _ = step.embed(found.fed.views)
    for group in state.optimiser.param_groups:
        group["lr"] = 0.0
    state.optimiser.zero_grad(set_to_none=True)
    total: Tensor = query.v.mean()
    for part in (query.corners, query.second):
        total = total if part is None else total + part.mean()
    total.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()


def objective_step(step: Step, found: StepResult) -> None:
    """The losses of the embeddings of a batch, their gradient, and the update of the objective's memory."""
    objective, new, index = step.state.objective, found.new, found.fed.index
    v, corners, second = (
        None if part is None else part.clone().requires_grad_() for part in (new.v, new.corners, new.second)
    )
    assert v is not None
    key = None if step.state.keys is None else new
    epoch = float(step.experiment.config.epochs)
    losses = objective.losses(index, Embedded(v, new.h, corners, second), key, epoch=epoch, step=0)
    losses.total.backward()  # type: ignore[no-untyped-call]
    objective.commit(index, new)
