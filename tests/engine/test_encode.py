from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sgcl_cli.engine.encode import centre_crop, resized
from sgcl_cli.errors import ArtefactError


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 48), (64, 64, 100), (50, 70, 32), (256, 256, 248)])
def test_resizing_is_pils_to_one_grey_level(height: int, width: int, size: int, interpolation: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = resized(torch.from_numpy(pixels)[None], size, interpolation)[0].numpy()
    sides = (size * width // min(height, width), size * height // min(height, width))
    expected = np.asarray(Image.fromarray(pixels).resize(sides, Image.Resampling[interpolation.upper()]))
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_what_has_the_size_is_not_touched() -> None:
    patches = torch.randint(0, 256, (2, 40, 50, 3), dtype=torch.uint8)
    assert resized(patches, 40, "bicubic") is patches


def test_the_centre_is_cut_out() -> None:
    patches = torch.arange(36).view(1, 6, 6, 1).expand(1, 6, 6, 3)
    assert centre_crop(patches, 2)[0, :, :, 0].tolist() == [[14, 15], [20, 21]]
    with pytest.raises(ArtefactError, match="images of 6 x 6 pixels are smaller than the encoder's input of 7"):
        centre_crop(patches, 7)
