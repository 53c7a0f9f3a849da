"""Logging of a pretraining run: every step and epoch to metrics.jsonl and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sgcl_cli.artefacts.results import peak_memory_mib
from sgcl_cli.config import PretrainConfig
from sgcl_cli.engine.meter import Meter
from sgcl_cli.engine.ranks import Ranks, joint_means, joint_terms
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.method.diagnostics import bank_sample, effective_rank, pair_similarity, spread
from sgcl_cli.method.objective import Losses, Objective
from sgcl_cli.stages.pretrain.log import MetricsLog, Tally

if TYPE_CHECKING:
    from sgcl_cli.report.board import Board

_TERM = "loss."  # before the name of a term, among the numbers of a step


class Watch:
    """Collects the numbers of every step, which stay on the device until ``read``.

    On a CPU every step is read immediately.

    :ivar not_finite: number of the first step whose loss was not finite; None if there was none.
    """

    def __init__(self, config: PretrainConfig, runtime: Runtime, log: MetricsLog, ranks: Ranks) -> None:
        self._log, self._runtime, self._ranks, self._images = log, runtime, ranks, config.batch
        self._meter = Meter(config.log_every if runtime.on_cuda else 1)
        self._board: Board | None = None
        self.not_finite: int | None = None
        self.start_clock = self._meter.restart

    def open_board(self, folder: Path, step: int) -> None:
        """Write for TensorBoard too, into ``folder``; what an interrupted run wrote after ``step`` is hidden.

        :raises ConfigError: TensorBoard is not installed.
        """
        from sgcl_cli.report.board import Board

        self._board = Board(folder, step)

    def step(self, known: dict[str, Any], losses: Losses, v: Tensor) -> None:
        """Add a step: numbers known to the host, the losses, and this rank's v (B, D); logged are means over the ranks."""
        seen: dict[str, Tensor] = {"spread": spread(v), "pair_similarity": pair_similarity(v)}
        seen |= {name: value if value.ndim == 0 else value.mean() for name, value in losses.watched.items()}
        means = joint_means(torch.stack([value.float() for value in seen.values()]), self._ranks)
        terms = {_TERM + name: term for name, term in joint_terms(losses, self._ranks).items()}
        self._meter.add(known, {**terms, **dict(zip(seen, means.unbind(), strict=True))})

    @property
    def due(self) -> bool:
        """Whether enough steps were collected to be read."""
        return self._meter.due

    def read(self, tally: Tally, seen: Tally, *, wait: bool) -> dict[str, Any] | None:
        """Read the steps that have arrived, log them, and add them to the means.

        :param tally: means of the terms.
        :param seen: means of the other numbers.
        :param wait: whether to wait for steps that are still on the device.
        :returns: the last line; None if no step was read.
        """
        line: dict[str, Any] | None = None
        for known, measured in self._meter.read(wait=wait):
            seconds = measured.pop("seconds") or 0.0
            terms = {name[len(_TERM) :]: measured.pop(name) for name in [*measured] if name.startswith(_TERM)}
            measured |= {"images_per_second": self._images / max(seconds, 1e-9), "memory_mib": self._memory()}
            if terms["total"] is None and self.not_finite is None:
                self.not_finite = int(known["step"])
            tally.add(terms)
            seen.add({**measured, "data_wait": known["data_wait"], "host_seconds": known["host_seconds"]})
            line = {**known, "loss": terms, **measured}
            self._log.write(line)
            if self._board is not None:
                self._board.write(line, int(known["step"]))
        return line

    def summary(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Log the means of an epoch."""
        self._log.write({"step": step, "summary": {"epoch": epoch, **values}})
        if self._board is not None:
            self._board.write({"epoch": values}, step)
            self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _memory(self) -> float:
        """Peak memory, MiB: allocated on the GPU, or resident memory of this process."""
        if self._runtime.on_cuda:
            return round(torch.cuda.max_memory_allocated(self._runtime.device) / 2**20, 1)
        return peak_memory_mib()["process"]


def bank_health(objective: Objective, epoch: int) -> dict[str, float]:
    """Effective rank of a sample of each bank; (seed, epoch) determines the sample."""
    return {
        f"effective_rank_{name}": float(effective_rank(bank_sample(bank, objective.seed, epoch)))
        for name, bank in objective.banks.items()
    }
