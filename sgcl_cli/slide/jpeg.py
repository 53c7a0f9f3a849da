"""JPEG files of patches and pictures."""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray


def encode(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """A baseline JPEG file with 4:2:0 chroma, from uint8 (H, W, 3) RGB."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=quality, colorspace="RGB", colorsubsampling="420", fastdct=False
    )
    return data
