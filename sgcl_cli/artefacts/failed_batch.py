"""failed_batch.npz: the batch with a non-finite loss, for inspection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store

NAME = "failed_batch.npz"


def save_failed_batch(
    path: str | Path,
    patches: NDArray[np.uint8],
    index: NDArray[np.int64],
    slide_ids: Sequence[str],
    *,
    step: int,
    epoch: int,
) -> None:
    """Write a batch atomically as NumPy arrays without Python objects, readable by numpy.load.

    :param patches: uint8 (B, H, W, 3), before augmentation.
    :param index: int64 (B,), global indices of the patches; their views follow from seed, epoch and index.
    :param slide_ids: the slide of each patch.
    :param step: counted from 0.
    :param epoch: counted from 0.
    """
    with store.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, patches=patches, index=index, slide_id=np.array(slide_ids), step=step, epoch=epoch)
