"""Fine-tuning of a network on labelled patches, and prediction with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.config import ViewOptions
from sgcl_cli.engine.decoders import PixelSource
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.engine.feed import Fed, Feed
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.loader import Failed, Loader, epoch_order
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import Views, ViewSettings, make_views
from sgcl_cli.nets.classifier import Classifier
from sgcl_cli.probe.models.best_weights import BestWeights
from sgcl_cli.probe.models.targets import Classes

STEPS_OF_A_SMALL_EPOCH = 16
FEWEST_PATCHES = 8  # of a batch, whose statistics normalise it
_UNCOLOURED = ViewSettings.of(
    ViewOptions(grayscale=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0), patch_size=256
)


class Patches:
    """Labelled patches by number: random views to train on, the encoder's own centre crop to predict from.

    The caller closes it. A view is a crop of 0.2 to 1 of the area, resized to the encoder's input, and mirrored half of the time.

    :param batch: the most patches in a batch. :param workers: processes that decode.
    """

    def __init__(self, source: PixelSource, card: EncoderCard, runtime: Runtime, *, batch: int, workers: int) -> None:
        self.runtime, self.batch = runtime, batch
        self._card = card
        self._views = replace(_UNCOLOURED, view=card.input_size)
        self._loader = Loader(source, batch=batch, workers=workers, pin=runtime.on_cuda)
        self._feed = Feed(self._loader, runtime)

    def close(self) -> None:
        """End the processes that decode."""
        self._loader.close()

    def views(self, order: list[NDArray[np.int64]], seed: int, epoch: int) -> Iterator[Fed]:
        """The batches of an order as training sees them.

        :raises ArtefactError: a patch that cannot be read.
        """
        for fed in self._feed.batches(order, partial(self._draw, seed, epoch)):
            if isinstance(fed, Failed):
                raise fed.error
            yield fed

    def _draw(self, seed: int, epoch: int, patches: Tensor, index: NDArray[np.int64]) -> Views:
        return make_views(patches, index, settings=self._views, seed=seed, epoch=epoch, corners=False)

    def look_ahead(self) -> None:
        """Prepare the next batch beside the work on this one; see ``Feed``."""
        self._feed.look_ahead()

    def scores(self, model: Classifier, rows: NDArray[np.int64]) -> Tensor:
        """The scores of a model in evaluation mode, float64 (len(rows), K) on the CPU.

        :raises ArtefactError: a patch that cannot be read.
        """
        frozen = FrozenEncoder(replace(self._card, embedding_size=model.head.out_features), model, self.runtime)
        found = []
        for batch in self._loader.batches([rows[at : at + self.batch] for at in range(0, len(rows), self.batch)]):
            if isinstance(batch, Failed):
                raise batch.error
            found.append(torch.from_numpy(frozen(batch.patches)))
        return torch.cat(found).double()


class Finetuning(BestWeights[Classifier]):
    """Fit a model to training patches; ``restore_best`` then loads the weights of the epoch with the lowest validation loss.

    :param model: images -> scores (B, K); it is moved to the device.
    :param train, validation: numbers of patches. :param target: the classes, on the device.
    :param seed: of the order of the patches and of their views; weights come from elsewhere.
    :param stepped: called after every step.
    """

    def __init__(
        self,
        model: Classifier,
        patches: Patches,
        target: Classes,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        *,
        seed: int,
        stepped: Callable[[], None] = lambda: None,
    ) -> None:
        device = patches.runtime.device
        super().__init__(model.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
        self._patches, self._target = patches, target
        self._train, self._validation = train, validation
        self._seed, self._stepped = seed, stepped
        small = max(FEWEST_PATCHES, len(train) // STEPS_OF_A_SMALL_EPOCH)
        self.batch_size = min(patches.batch, small, len(train))

    @property
    def steps(self) -> int:
        """Steps of an epoch: about 16 on few patches; an incomplete last batch is left out."""
        return len(self._train) // self.batch_size

    def begin_epoch(self, position: Position) -> None:
        """Training mode."""
        self.model.train()

    def batches(self, epoch: int, start: int) -> Iterator[Fed]:
        """The batches of an epoch, from batch ``start`` on."""
        places = epoch_order(len(self._train), self.batch_size, self._seed, epoch, start)
        return self._patches.views([self._train[part] for part in places], self._seed, epoch)

    def loss(self, batch: Fed, position: Position) -> Tensor:
        """Mean cross-entropy."""
        images = batch.views.whole.contiguous(memory_format=torch.channels_last)
        with self._patches.runtime.autocast():
            scores = self.model(images)
        loss = self._target.loss(scores.float(), batch.index)
        self._patches.look_ahead()
        return loss

    def stepped(self, batch: Fed, position: Position) -> None:
        """Report that a step is done."""
        self._stepped()

    def end_epoch(self, position: Position) -> bool:
        """Compute the validation loss and keep the weights if it is the lowest; never stops training."""
        if not len(self._validation):
            self.rate_epoch(position.epoch, None)
            return False
        scores = self._patches.scores(self.model, self._validation)
        truth = self._target.classes[torch.from_numpy(self._validation).to(self._target.classes.device)]
        self.rate_epoch(position.epoch, float(nn.functional.cross_entropy(scores, truth.cpu())))
        return False

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probabilities (len(rows), K)."""
        if not len(rows):
            return np.empty((0, self._target.outputs))
        probability: NDArray[np.float64] = self._target.predict(self._patches.scores(self.model, rows)).numpy()
        return probability
