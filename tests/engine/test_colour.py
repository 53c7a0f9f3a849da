from __future__ import annotations

import colorsys
import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.engine import colour
from sgcl_cli.engine.views import ViewSettings, uniforms

SETTINGS = ViewSettings(grayscale=0.3)


def tensors(plan: colour.ColourPlan) -> colour.ColourPlan:
    return colour.ColourPlan(*(torch.from_numpy(part) for part in plan))


def luma(image: np.ndarray) -> np.ndarray:
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def one_by_one(image: np.ndarray, order: list[int], factor: list[float], turn: float, gray: bool) -> np.ndarray:
    """The operations on one image (3, H, W), in float64, each as torchvision defines it."""
    image = np.tile(luma(image), (3, 1, 1)) if gray else image
    for which in order:
        if which == 3:
            pixels = image.reshape(3, -1).T
            turned = [
                colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in (colorsys.rgb_to_hsv(*p) for p in pixels)
            ]
            image = np.array(turned).T.reshape(image.shape)
            continue
        other = (0.0, luma(image).mean(), luma(image))[which]
        image = np.clip(factor[which] * image + (1 - factor[which]) * other, 0, 1)
    return image


@effort(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    strengths=st.tuples(*[st.sampled_from([0.0, 0.4, 1.0])] * 3),
    hue=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_a_batch_is_what_its_images_are_one_by_one(
    seed: int, strengths: tuple[float, float, float], hue: float
) -> None:
    count = 24
    brightness, contrast, saturation = strengths
    settings = ViewSettings(grayscale=0.3, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    images = np.random.default_rng(seed).random((count, 3, 3, 4))
    images[0, :, 0] = images[1, :, 1, 1] = 0.5
    draw = uniforms(np.arange(count), seed, 0, 0)
    plan = colour.plan(draw, settings)
    order = np.argsort(np.stack([draw[20 + n] for n in range(4)]), axis=0)
    got = colour.recolour(torch.from_numpy(images).float(), tensors(plan)).numpy()
    by_pixel = colour.recolour_by_pixel(torch.from_numpy(images).float(), tensors(plan)).numpy()
    np.testing.assert_allclose(by_pixel, got, rtol=0, atol=1e-5)
    for b in range(count):
        factor = [1 + strength * (2 * draw[10 + n][b] - 1) for n, strength in enumerate(strengths)]
        turn, gray = hue * (2 * draw[13][b] - 1), bool(draw[1][b] < 0.3)
        expected = one_by_one(images[b], order[:, b].tolist(), factor, turn, gray)
        np.testing.assert_allclose(got[b], expected, rtol=0, atol=2e-5)


def test_all_orders_come_equally_often() -> None:
    draw = uniforms(np.arange(24_000), 0, 0, 0)
    order = np.argsort(np.stack([draw[20 + n] for n in range(4)]), axis=0)
    counts = [int((order == np.array(wanted)[:, None]).all(0).sum()) for wanted in permutations(range(4))]
    assert len(counts) == 24 and max(abs(count - 1_000) for count in counts) < 5 * 1_000**0.5


def test_hue_turns_as_colorsys_does() -> None:
    colours = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    colours[:3] = torch.tensor([[0.5, 0.5, 0.5], [0, 0, 0], [1, 1, 1]])
    colours[3:6] = torch.tensor([[0.7, 0.7, 0.1], [0.7, 0.1, 0.7], [0.1, 0.7, 0.7]])
    turns = torch.linspace(-0.5, 0.5, 200)
    hue = (6 * turns[:, None] + torch.tensor([5.0, 3.0, 1.0]))[:, :, None]
    ours = colour.turn_hue(colours[:, :, None], hue)[:, :, 0]
    for pixel, turn, got in zip(colours.tolist(), turns.tolist(), ours.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(got, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-5)


def test_where_nothing_compiles_colours_are_the_same_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda(torch.Tensor):
        @property
        def device(self) -> torch.device:
            return torch.device("cuda", 0)

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Cannot find a working triton installation\nsecond line")

    plan = tensors(colour.plan(uniforms(np.arange(4), 0, 0, 0), SETTINGS))
    images = torch.rand(4, 3, 5, 5)
    monkeypatch.setattr(torch, "compile", refuse)
    tried = colour.Recolour()
    got = tried(images.as_subclass(OnCuda), plan)
    assert torch.equal(got.as_subclass(torch.Tensor), colour.recolour(images, plan))
    assert tried.why_not == "Cannot find a working triton installation"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_compiled_it_is_a_few_kernels_and_gives_the_same() -> None:
    from torch._inductor import metrics

    plan = tensors(colour.plan(uniforms(np.arange(4), 0, 0, 0), SETTINGS))
    images = torch.rand(4, 3, 32, 32)
    metrics.reset()
    torch._dynamo.reset()
    got = torch.compile(colour.recolour_by_pixel, dynamic=False, fullgraph=True)(images, plan)
    torch.testing.assert_close(got, colour.recolour(images, plan), rtol=0, atol=1e-5)
    assert metrics.generated_kernel_count <= 20
