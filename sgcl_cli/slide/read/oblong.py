"""Square patches of a slide with oblong pixels, read one by one.

Bands and native tiles assume one scale along both axes; slides with oblong pixels are too rare to optimise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.lattice import Sides
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.tissue import focus

WHY = "its pixels are oblong: each patch is read by itself and resampled to square ones"
_CACHE = 128 * 2**20  # bytes


def files(
    slide: Slide, corners: NDArray[np.int64], sides: Sides, size: int, quality: int
) -> Iterator[tuple[int, focus.Encoded | SlideError]]:
    """The JPEG file of each patch with its index in ``corners``, or the error if it cannot be read.

    :param corners: int64 (N, 2), level-0 pixels.
    :param sides: (width, height) of the field of view, level-0 pixels.
    :param size: side of a patch in pixels.
    """
    slide.cache(_CACHE)
    for position, (x, y) in enumerate(corners.tolist()):
        try:
            yield position, focus.encode(slide.region((x, y), sides, (size, size)), quality)
        except SlideError as error:
            yield position, error
