"""The state of a pretraining run, the content of its checkpoints, and their files."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgcl_cli.artefacts import reading, store
from sgcl_cli.artefacts.checkpoint import EncoderCard, card_values, load_checkpoint, save_checkpoint
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import PretrainConfig, differences
from sgcl_cli.engine.fit import Position
from sgcl_cli.engine.networks import KeyNetworks, Networks
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError
from sgcl_cli.method.objective import Objective
from sgcl_cli.stages.encoders import Start, input_side
from sgcl_cli.stages.pretrain.log import Tally

_REMEDY = "put an epoch-*.pt of --keep in its place, or use --overwrite to start again"
_CONTENT = {
    "position": reading.listed(reading.whole(0, 2**62), count=3),
    "seconds": reading.number(0, 1e12),
    "patches_id": reading.TEXT,
    **dict.fromkeys(("config", "slides", "encoder", "epoch_means", "tally", "seen"), reading.MAPPING),
}


@dataclass
class State:
    """Everything that a step changes.

    :ivar networks: encoder and projector.
    :ivar keys: MoCo's key networks, if the objective needs them.
    :ivar objective: with its memory.
    :ivar optimiser: of the networks.
    :ivar position: in the schedule.
    :ivar tally: means of the terms in the current epoch.
    :ivar seen: means of the other numbers in the current epoch.
    :ivar epoch_means: means of the terms in the last complete epoch.
    :ivar best: the probe's best score.
    :ivar seconds: of training, up to the checkpoint that was loaded.
    """

    networks: Networks
    keys: KeyNetworks | None
    objective: Objective
    optimiser: torch.optim.Optimizer
    position: Position = field(default_factory=Position)
    tally: Tally = field(default_factory=Tally)
    seen: Tally = field(default_factory=Tally)
    epoch_means: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    seconds: float = 0.0

    def content(self) -> dict[str, Any]:
        """Tensors (not copies) and plain values."""
        return {
            "position": [self.position.epoch, self.position.within, self.position.step],
            "projector": self.networks.projector.state_dict(),
            "objective": self.objective.state_dict(),
            "keys": None if self.keys is None else self.keys.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "tally": self.tally.content(),
            "seen": self.seen.content(),
            "best": self.best,
            "epoch_means": self.epoch_means,
        }

    def load(self, content: dict[str, Any]) -> None:
        """Restore the content of a checkpoint."""
        self.networks.encoder.load_state_dict(content["encoder"]["state"])
        self.networks.projector.load_state_dict(content["projector"])
        self.objective.load_state_dict(content["objective"])
        if self.keys is not None:
            self.keys.load_state_dict(content["keys"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.position = Position(*content["position"])
        self.tally, self.seen = Tally.of(content["tally"]), Tally.of(content["seen"])
        self.best = content["best"]
        self.epoch_means = dict(content["epoch_means"])
        self.seconds = content["seconds"]


class Checkpoints:
    """last.pt of a run, those of its last epochs, and when the next is due."""

    probe_slides: tuple[str, ...] = ()

    def __init__(self, config: PretrainConfig, index: PatchIndex, start: Start, run_id: str) -> None:
        self.config, self.index, self.run_id = config, index, run_id
        self._seen = start.slides
        self._settings = {**config.affecting(), **start.settings}
        self.last = Path(config.out) / "last.pt"
        self.took = 0.0
        self._saved = time.monotonic()

    def start_clock(self) -> None:
        """Count the minutes to the next timed checkpoint from now."""
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is older than --checkpoint-minutes."""
        return time.monotonic() - self._saved > 60 * self.config.checkpoint_minutes

    def save(self, state: State, seconds: float) -> None:
        """Write last.pt, and at the end of an epoch a copy with its number; ``seconds`` of training so far."""
        started = time.monotonic()
        encoder = state.networks.encoder.state_dict()
        save_checkpoint(
            self.last,
            {
                "id": self.run_id,
                "config": self._settings,
                "patches_id": self.index.id,
                "slides": {file.slide_id: file.id for file in self.index.files},
                "encoder": {"card": card_values(self.card(state)), "state": encoder},
                "seconds": seconds,
                **state.content(),
            },
        )
        if self.config.keep and state.position.within == 0:
            keep_epoch(self.last, state.position.epoch, self.config.keep)
        self._saved = time.monotonic()
        self.took = self._saved - started

    def save_best(self, state: State, probe: dict[str, Any]) -> None:
        """Write best.pt: the current encoder, and the ``probe``'s scores."""
        encoder = {"card": card_values(self.card(state)), "state": state.networks.encoder.state_dict()}
        save_checkpoint(self.last.with_name("best.pt"), {"id": self.run_id, "encoder": encoder, "probe": probe})

    def resume(self, state: State) -> bool:
        """Restore last.pt, if it exists; whether it did.

        :raises ConfigError: it was made under other settings, or on other patches; the message says which.
        :raises ArtefactError: it is damaged.
        """
        if not self.last.exists():
            return False
        content = load_checkpoint(self.last)
        reading.typed(content, _CONTENT, str(self.last), _REMEDY, (*_CONTENT,))
        try:
            self._refuse_another_run(content)
            state.load(content)
        except ConfigError:
            raise
        except (RuntimeError, SgclError, *reading.MISTAKEN) as error:
            raise ArtefactError(
                f"{self.last} cannot be resumed: {str(error)[: reading.LONGEST_REASON]}",
                _REMEDY,
            ) from error
        return True

    def _refuse_another_run(self, content: dict[str, Any]) -> None:
        changed = differences(content["config"], self._settings)
        if changed:
            raise ConfigError(
                f"{self.last.parent} holds a run under other settings: {'; '.join(changed)}",
                "use the same settings to go on, another --out, or --overwrite to start again",
            )
        if content["patches_id"] != self.index.id:
            raise ConfigError(
                f"{self.last.parent} holds a run on other patches: {_corpus_change(content['slides'], self.index)}",
                "use another --out, or --overwrite to start again",
            )

    def card(self, state: State) -> EncoderCard:
        """The card stored with the encoder's weights."""
        slides = tuple(str(file.source.get("identity", file.id)) for file in self.index.files)
        steps_per_epoch = len(self.index) // self.config.batch
        return EncoderCard(
            name=self.config.encoder,
            embedding_size=int(state.networks.encoder.embedding_size),
            input_size=input_side(state.networks.encoder, self.index.patch_size),
            mean=MEAN,
            std=STD,
            mpp=self.index.mpp,
            patch_size=self.index.patch_size,
            run_id=self.run_id,
            epochs=state.position.step / steps_per_epoch,
            pretrain_slides=tuple(dict.fromkeys((*slides, *self._seen))),
            probe_slides=self.probe_slides,
        )


def epochs_kept(folder: Path) -> list[Path]:
    """The checkpoints of epochs in a folder, oldest first."""
    numbered = [path for path in folder.glob("epoch-*.pt") if re.fullmatch(r"[0-9]{1,9}", path.stem.partition("-")[2])]
    return sorted(numbered, key=lambda path: int(path.stem.partition("-")[2]))


def keep_epoch(last: Path, epoch: int, most: int) -> None:
    """Give last.pt a second name by its epoch, then remove all but the ``most`` newest of such names.

    The name is a hard link, which takes no space until last.pt is replaced; a copy where the file system has no links.
    """
    path = last.with_name(f"epoch-{epoch:04d}.pt")
    with store.atomic(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(last, temporary)
        except OSError:
            shutil.copyfile(last, temporary)
    for old in epochs_kept(last.parent)[:-most]:
        old.unlink(missing_ok=True)


def _corpus_change(before: dict[str, str], index: PatchIndex) -> str:
    now = {file.slide_id: file.id for file in index.files}
    added, gone = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    changed = sorted(slide for slide in now.keys() & before.keys() if now[slide] != before[slide])
    found = (("added", added), ("gone", gone), ("changed", changed))
    return "; ".join(f"{len(ids)} slides {what}, first '{ids[0]}'" for what, ids in found if ids)
