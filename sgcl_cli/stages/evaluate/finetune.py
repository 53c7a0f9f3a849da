"""``sgcl evaluate --finetune RUN``: fine-tuning of the encoder on patch images, and training of the same network from scratch.

Both have the same recipe; each chooses its learning rate and epoch on validation patients. A trial is one network, learning
rate and seed in a fold; trials are cached like other fits.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.engine import fit as engine_fit
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.engine.finetune import Finetuning, Patches
from sgcl_cli.engine.optimisers import make_optimiser
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.errors import ConfigError, TrainingError
from sgcl_cli.nets.classifier import Classifier
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.probe.models.targets import Classes
from sgcl_cli.progress import Reporter
from sgcl_cli.stages.encoders import Start, build_start, open_ours, other_encoder
from sgcl_cli.stages.evaluate.efficiency import points_of
from sgcl_cli.stages.evaluate.inputs import Inputs
from sgcl_cli.stages.evaluate.models import FoldFit, Model
from sgcl_cli.stages.evaluate.patches import CohortPatches, open_patches

FINETUNE, SCRATCH = "finetune", "scratch"
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
_TIMED_STEPS = 3


@dataclass(frozen=True)
class Checkpoint:
    """The encoder to fine-tune.

    :ivar start: its architecture and weights.
    :ivar card: its description.
    """

    start: Start
    card: EncoderCard


def open_checkpoint(config: EvaluateConfig, inputs: Inputs) -> Checkpoint | None:
    """The encoder of ``--finetune``; None without it.

    :raises ConfigError: the labels are of slides, the encoder cannot be trained, or the features are of another encoder.
    :raises ArtefactError: the encoder is missing or damaged.
    """
    if config.finetune is None:
        return None
    if inputs.level != "patch":
        raise ConfigError(
            "--finetune is at patch level, and the labels are of slides",
            "give features of labelled patches without a target in --labels, or leave --finetune out",
        )
    start, card = open_ours("--finetune", config.finetune)
    for source in inputs.sources:
        differs = other_encoder(source.features.files[0].attributes or {}, card)
        if differs is not None:
            raise ConfigError(
                f"{source.features.folder} are features of another encoder than --finetune {config.finetune}: {differs}",
                f"embed the patches with --encoder {config.finetune}, so that frozen and fine-tuned encoder are the same",
            )
    return Checkpoint(start, card)


class Tuner:
    """Fits networks to the patches of a cohort; the caller closes it.

    :raises ConfigError: the patch images are not found; see ``open_patches``.
    """

    def __init__(self, config: EvaluateConfig, cohort: Cohort, checkpoint: Checkpoint, reporter: Reporter) -> None:
        self.config, self.cohort, self.reporter = config, cohort, reporter
        self.card = checkpoint.card
        self.starts = {FINETUNE: checkpoint.start, SCRATCH: Start(checkpoint.card.name, None)}
        self._opened = ExitStack()
        self.source: CohortPatches = open_patches(cohort, config.patches, self.card.input_size)

    def close(self) -> None:
        """End the decoding processes, if any were started."""
        self._opened.close()

    @cached_property
    def runtime(self) -> Runtime:
        """Device and precision, chosen as by ``sgcl embed``."""
        return engine_runtime.start(self.config.device, "auto", self.config.threads)

    @cached_property
    def patches(self) -> Patches:
        """The patches, indexed by rows of the cohort."""
        workers = engine_runtime.loading_workers(None, self.runtime)
        opened = Patches(self.source, self.card, self.runtime, batch=self.config.finetune_batch, workers=workers)
        self._opened.callback(opened.close)
        return opened

    @cached_property
    def target(self) -> Classes:
        """Classes of all rows, on the device."""
        return Classes(torch.from_numpy(self.cohort.label).to(self.runtime.device), len(self.cohort.classes))

    def models(self) -> list[Model]:
        """The fine-tuned network and the one from scratch."""
        name = self.card.name
        return [self._model(FINETUNE, f"Fine-tuned {name}"), self._model(SCRATCH, f"{name} from scratch")]

    def _model(self, key: str, name: str) -> Model:
        config = self.config
        pairs = [(seed, lr) for seed in range(config.finetune_seeds) for lr in config.tuned_rates]
        parts = tuple(
            Model(key, name, partial(self._trial, key, name, lr, seed), self._settings(key, lr, seed))
            for seed, lr in pairs
        )
        join = partial(_chosen, config.tuned_rates)
        shares = config.tuned_shares
        return Model(key, name, lambda fold: join([part.fit(fold) for part in parts]), {}, shares, parts, join)

    def _settings(self, key: str, lr: float, seed: int) -> dict[str, Any]:
        """The settings that a trial depends on; precision is that of the device."""
        config, weights = self.config, self.starts[key].weights
        return {
            "feed": self.card.feed(),
            "weights": None if weights is None else weights.sha256,
            "epochs": config.finetune_epochs,
            "batch": config.finetune_batch,
            "lr": lr,
            "seed": [config.seed, seed],
            "lower": str(self.runtime.lower),
        }

    def _trial(self, key: str, name: str, lr: float, seed: int, fold: Fold) -> FoldFit:
        """Train once and predict with the epoch of the lowest validation loss.

        If the loss is not finite, predictions are NaN and the details have ``diverged``: another rate may be chosen.

        :raises TrainingError: the loss is not finite and there are no validation rows to choose another rate.
        """
        epochs = self.config.finetune_epochs
        with self.reporter.task(
            f"{name}, fold {fold.name}, {len(fold.fitted):,} patches, lr {lr:g}", None, "step"
        ) as bar:
            work, optimiser = self._begin(key, lr, seed, fold, bar.advance)
            bar.update(total=epochs * work.steps)
            diverged = ""
            try:
                engine_fit.fit(work, optimiser, epochs=epochs, lr=engine_fit.cosine(lr, epochs * work.steps))
            except engine_fit.NotFiniteError as error:
                diverged = error.message
        validated = len(fold.validation) > 0
        if diverged and not validated:
            raise TrainingError(f"at --finetune-lr {lr:g} {diverged}", "remove that rate from --finetune-lr")
        if not diverged and validated and not math.isfinite(work.best_loss):
            diverged = "the validation loss is never finite"
        if diverged:
            self.reporter.warn(f"{name}, fold {fold.name}: at --finetune-lr {lr:g} {diverged}; this rate is not chosen")
            none, nothing = (
                np.full((1, len(rows), self.target.outputs), np.nan) for rows in (fold.test, fold.validation)
            )
            return FoldFit(none, nothing, {"best_epoch": None, "validation_loss": None, "diverged": True})
        work.restore_best()
        test, chosen = work.predict(fold.test), work.predict(fold.validation)
        loss = work.best_loss if validated else None
        return FoldFit(test[None], chosen[None], {"best_epoch": work.best_epoch, "validation_loss": loss})

    def _begin(
        self, key: str, lr: float, seed: int, fold: Fold, stepped: Callable[[], None]
    ) -> tuple[Finetuning, torch.optim.Optimizer]:
        word = _word(self.config.seed, seed, fold)
        with engine_runtime.seeded(word):
            encoder, width, _ = build_start(self.starts[key], (self.card.input_size,))
            model = Classifier(encoder, width, self.target.outputs)
        work = Finetuning(model, self.patches, self.target, fold.train, fold.validation, seed=word, stepped=stepped)
        optimiser = make_optimiser(
            "sgd", (work.model,), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=self.runtime.on_cuda
        )
        return work, optimiser

    def expected_seconds(self, plan: Plan) -> float:
        """Expected time of all trials, from a few training steps of one and the prediction of a batch."""
        fold, marks = plan.folds[0], list[float]()
        work, optimiser = self._begin(FINETUNE, self.config.tuned_rates[0], 0, fold, lambda: None)

        def enough() -> bool:
            self.runtime.wait()
            marks.append(time.perf_counter())
            return len(marks) == _TIMED_STEPS

        engine_fit.fit(work, optimiser, epochs=_TIMED_STEPS, lr=lambda step: 0.0, stop=enough)
        few = fold.fitted[: self.config.finetune_batch]
        step = (marks[-1] - marks[0]) / (len(marks) - 1) / work.batch_size
        look = self.runtime.seconds_of(lambda: self.patches.scores(work.model, few)) / len(few)
        points = points_of(self.config, self.cohort, plan, self.config.tuned_shares)
        each = sum(
            self.config.finetune_epochs * (step * len(one.train) + look * len(one.validation))
            + look * (len(one.test) + len(one.validation))
            for folds in points.folds.values()
            for one in folds
        )
        return each * len(self.starts) * self.config.finetune_seeds * len(self.config.tuned_rates)

    def describe(self) -> tuple[str, str, str]:
        """What is fitted, as (what, value, reason)."""
        config = self.config
        shares = ", ".join(f"{100 * share:g}" for share in config.tuned_shares)
        where = "recorded in the features" if config.patches is None else f"from {config.patches}"
        return "Fine-tuning", f"{self.card.name} on {shares} % of the fitted patients", f"patches {where}"


def _chosen(rates: Sequence[float], fits: Sequence[FoldFit]) -> FoldFit:
    """For each seed the fit with the learning rate of the lowest validation loss; without validation the lowest rate.

    :param fits: ordered by seed, then by ascending learning rate.
    :raises TrainingError: a seed diverged at every rate.
    """
    test, validation = [], []
    details: dict[str, list[Any]] = {"lr": [], "best_epochs": [], "validation_losses": []}
    for start in range(0, len(fits), len(rates)):
        tried = fits[start : start + len(rates)]
        losses = [fit.details["validation_loss"] for fit in tried]
        alive = [number for number, fit in enumerate(tried) if not fit.details.get("diverged")]
        if not alive:
            given = ", ".join(f"{lr:g}" for lr in rates)
            raise TrainingError(f"--finetune-lr {given}: the loss is not finite at any of them", "give lower rates")
        best = min(alive, key=lambda number: (losses[number] or 0.0, number))
        test.append(tried[best].test[0])
        validation.append(tried[best].validation[0])
        details["lr"].append(rates[best])
        details["best_epochs"].append(tried[best].details["best_epoch"])
        details["validation_losses"].append({f"{lr:g}": loss for lr, loss in zip(rates, losses, strict=True)})
    return FoldFit(np.stack(test), np.stack(validation), details)


def _word(seed: int, number: int, fold: Fold) -> int:
    """The random seed of a trial, from the seed of the run, the number of the seed, and the training rows."""
    rows = zlib.crc32(np.ascontiguousarray(fold.train).tobytes())
    return int(np.random.SeedSequence([seed, 6, number, *fold.name.encode(), rows]).generate_state(1)[0])
