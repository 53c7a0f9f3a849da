from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from sgcl_cli.config import ViewOptions
from sgcl_cli.engine.stain import change_stains, stain_change
from sgcl_cli.engine.views import (
    MEAN,
    STD,
    ViewSettings,
    crop_boxes,
    cut_places,
    cut_weights,
    denormalise,
    make_views,
    normalise,
    uniforms,
)
from sgcl_cli.method import streams

SETTINGS = ViewSettings.of(ViewOptions(view=28, corner=12), 32)
STILL = {
    "view": 32,
    "corner": 16,
    **dict.fromkeys(("crop_low", "crop_high", "corner_crop_low", "corner_crop_high"), 1),
    **dict.fromkeys(("grayscale", "brightness", "contrast", "saturation", "hue", "flip"), 0),
}


def _patches(count: int, side: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """What was normalised, between 0 and 1; ``denormalise`` would round."""
    return images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def _whole(patches: torch.Tensor, index: np.ndarray, **strengths: float) -> torch.Tensor:
    views = make_views(
        patches, index, settings=ViewSettings.of(ViewOptions(**{**STILL, **strengths}), 32), seed=3, epoch=2
    )
    return _pixels(views.whole)


def test_shapes() -> None:
    views = make_views(_patches(3), np.arange(3), settings=SETTINGS, seed=0, epoch=0)
    assert views.whole.shape == (3, 3, 28, 28) and views.whole.dtype == torch.float32
    assert views.corners is not None and views.corners.shape == (4, 3, 3, 12, 12)
    assert make_views(_patches(3), np.arange(3), settings=SETTINGS, seed=0, epoch=0, corners=False).corners is None


def test_a_view_depends_on_seed_epoch_and_index_and_not_on_the_batch() -> None:
    patches, index = _patches(6), np.array([10, 3, 7, 8, 100_000_000_000, 5])
    whole = make_views(patches, index, settings=SETTINGS, seed=1, epoch=2)
    for rows in ([4], [2, 0], [5, 4, 3]):
        part = make_views(patches[rows], index[rows], settings=SETTINGS, seed=1, epoch=2)
        torch.testing.assert_close(part.whole, whole.whole[rows], rtol=0, atol=2e-5)
        torch.testing.assert_close(part.corners, whole.corners[:, rows], rtol=0, atol=2e-5)
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.allclose(make_views(patches, index, settings=SETTINGS, **other).whole, whole.whole, atol=0.1)


def test_the_uniforms_are_uniform_and_unrelated() -> None:
    draw = uniforms(np.arange(20_000), seed=0, epoch=0, view=0)
    for position in (0, 1, 100):
        counts = np.bincount((draw[position] * 10).astype(int), minlength=10)
        assert abs(counts - 2000).max() < 5 * 2000**0.5
        assert draw[position].min() >= 0 and draw[position].max() < 1
    others = [
        draw[1],
        uniforms(np.arange(20_000), 1, 0, 0)[0],
        uniforms(np.arange(20_000), 0, 1, 0)[0],
        uniforms(np.arange(20_000), 0, 0, 1)[0],
        np.roll(draw[0], 1),
    ]
    for other in others:
        assert abs(np.corrcoef(draw[0], other)[0, 1]) < 5 / 20_000**0.5


def test_the_uniforms_are_those_of_the_device() -> None:
    index = np.array([0, 5, 681_485])
    draw = uniforms(index, 7, 3, 2)
    for place, i in enumerate(index.tolist()):
        found = streams.uniforms(streams.key(7, 3, i, 2), streams.counters(torch.tensor([0, 13, 139])))
        assert [draw[position][place] for position in (0, 13, 139)] == found.tolist()


def test_crops_lie_inside_and_follow_the_law() -> None:
    box = crop_boxes(uniforms(np.arange(20_000), 0, 0, 0), 256, (0.2, 1.0))
    assert (box >= 0).all() and (box[:, 0] + box[:, 2] <= 256).all() and (box[:, 1] + box[:, 3] <= 256).all()
    area, aspect = box[:, 2] * box[:, 3] / 256**2, box[:, 2] / box[:, 3]
    assert area.min() > 0.19 and area.max() <= 1.0
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    assert abs(np.log(aspect).mean()) < 0.01
    small = crop_boxes(uniforms(np.arange(20_000), 0, 0, 0), 256, (0.2, 0.5))
    assert abs((small[:, 2] * small[:, 3]).mean() / 256**2 - 0.35) < 0.01


def test_corner_crops_never_shrink_at_the_published_sizes() -> None:
    box = crop_boxes(uniforms(np.arange(20_000), 0, 0, 1), 128, (0.2, 0.56))
    assert (np.sqrt(box[:, 2] * box[:, 3]) <= 96.5).all()


@pytest.mark.parametrize(
    ("start", "length", "size"), [((3, 5), (20, 9), 12), ((0, 0), (32, 32), 8), ((2, 1), (7, 11), 28)]
)
@pytest.mark.parametrize("flipped", [False, True])
def test_crop_and_resize_is_antialiased_interpolation(start: tuple, length: tuple, size: int, flipped: bool) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (x, y), (width, height) = start, length
    cuts = [
        torch.from_numpy(cut_places(np.array([at]), np.array([wide]), size, np.array([flip]))).float()
        for at, wide, flip in ((y, height, False), (x, width, flipped))
    ]
    rows, columns = cut_weights(torch.cat(cuts), torch.arange(size).float(), torch.arange(0.5, 32))
    ours = rows @ image[0] @ columns.T
    cut = image[:, :, y : y + height, x : x + width]
    theirs = interpolate(cut, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    torch.testing.assert_close(ours, theirs.flip(-1) if flipped else theirs, rtol=0, atol=1e-5)


def test_strength_zero_is_only_crop_and_normalisation() -> None:
    still = ViewSettings.of(ViewOptions(**STILL), 32)
    patches = _patches(40)
    views = make_views(patches, np.arange(40), settings=still, seed=0, epoch=0)
    plain = normalise(patches.permute(0, 3, 1, 2).float() / 255)
    whole_box = crop_boxes(uniforms(np.arange(40), 0, 0, 0), 32, (1, 1))[:, 2:] == 32
    assert whole_box.all()
    torch.testing.assert_close(views.whole, plain, rtol=0, atol=1e-5)
    quarters = torch.stack([plain[:, :, r : r + 16, c : c + 16] for r in (0, 16) for c in (0, 16)])
    torch.testing.assert_close(views.corners, quarters, rtol=0, atol=1e-5)


def test_each_strength_changes_something_and_gray_is_gray() -> None:
    patches = _patches(8)
    still = make_views(patches, np.arange(8), settings=ViewSettings.of(ViewOptions(**STILL), 32), seed=0, epoch=0).whole
    for name in ("brightness", "contrast", "saturation", "hue", "flip", "grayscale"):
        value = 1.0 if name in ("flip", "grayscale") else 0.4
        moved = make_views(
            patches, np.arange(8), settings=ViewSettings.of(ViewOptions(**{**STILL, name: value}), 32), seed=0, epoch=0
        ).whole
        assert not torch.allclose(moved, still), name
        if name == "flip":
            torch.testing.assert_close(moved, still.flip(-1), rtol=0, atol=1e-5)
        if name == "grayscale":
            pixels = _pixels(moved)
            torch.testing.assert_close(pixels[:, 0], pixels[:, 2], rtol=0, atol=1e-5)


def test_stains_vary_by_what_the_hash_says_of_the_patch() -> None:
    patches, index = _patches(6), np.array([5, 0, 9, 123_456_789_012, 2, 7])
    seen = _whole(patches, index, stain_scale=0.25, stain_shift=0.05)
    draw = uniforms(index, 3, 2, 0)
    scale = np.stack([1 + 0.25 * (2 * draw[30 + n] - 1) for n in range(3)], axis=1)
    shift = np.stack([0.05 * (2 * draw[33 + n] - 1) for n in range(3)], axis=1)
    change = [torch.from_numpy(part).float() for part in stain_change(scale, shift)]
    expected = change_stains(patches.permute(0, 3, 1, 2).float() / 255, *change)
    torch.testing.assert_close(seen, expected, rtol=0, atol=5e-5)


def test_patches_turn_and_flip_as_numpy_turns_them() -> None:
    patches, index = _patches(64), np.arange(100, 164)
    seen = _whole(patches, index, rotate90=0.6, vertical_flip=0.5, flip=0.5)
    draw = uniforms(index, 3, 2, 0)
    poses = set()
    for b in range(64):
        expected = patches[b].numpy().astype(np.float64) / 255
        if draw[0][b] < 0.5:
            expected = expected[:, ::-1]
        if draw[2][b] < 0.5:
            expected = expected[::-1]
        turns = 1 + int(3 * draw[4][b]) if draw[3][b] < 0.6 else 0
        poses.add((bool(draw[0][b] < 0.5), bool(draw[2][b] < 0.5), turns))
        np.testing.assert_allclose(seen[b], np.rot90(expected, turns).transpose(2, 0, 1), atol=1e-5)
    assert len(poses) == 16


def test_quarters_turn_in_place_and_each_by_its_own_draw() -> None:
    patches, index = _patches(32), np.arange(32)
    settings = ViewSettings.of(ViewOptions(**{**STILL, "rotate90": 1.0}), 32)
    corners = make_views(patches, index, settings=settings, seed=0, epoch=0).corners
    plain = normalise(patches.permute(0, 3, 1, 2).float() / 255)
    differ = False
    for q, (r, c) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
        turns = 1 + np.floor(3 * uniforms(index, 0, 0, 1 + q)[4]).astype(int)
        differ |= bool((turns != 1 + np.floor(3 * uniforms(index, 0, 0, 1)[4]).astype(int)).any())
        for b in range(32):
            quarter = plain[b, :, r : r + 16, c : c + 16]
            torch.testing.assert_close(corners[q, b], torch.rot90(quarter, int(turns[b]), (1, 2)), rtol=0, atol=1e-5)
    assert differ


@pytest.mark.parametrize(
    "extra", [{"rotate90": 0.5}, {"vertical_flip": 0.5}, {"stain_scale": 0.2, "stain_shift": 0.05}]
)
def test_the_extras_do_not_depend_on_the_batch_and_move_no_other_draw(extra: dict[str, float]) -> None:
    patches, index = _patches(6), np.array([10, 3, 7, 8, 1, 5])
    settings = ViewSettings.of(ViewOptions(view=28, corner=12, **extra), 32)
    whole = make_views(patches, index, settings=settings, seed=1, epoch=2)
    for rows in ([4], [5, 0, 3]):
        part = make_views(patches[rows], index[rows], settings=settings, seed=1, epoch=2)
        torch.testing.assert_close(part.whole, whole.whole[rows], rtol=0, atol=5e-5)
        torch.testing.assert_close(part.corners, whole.corners[:, rows], rtol=0, atol=5e-5)
    plain = make_views(patches, index, settings=ViewSettings.of(ViewOptions(view=28, corner=12), 32), seed=1, epoch=2)
    assert not torch.allclose(plain.whole, whole.whole, atol=0.1)
    untouched = [b for b in range(6) if not torch.allclose(plain.whole[b], whole.whole[b], atol=1e-5)]
    if "stain_scale" not in extra:
        assert 0 < len(untouched) < 6


def test_denormalising_gives_the_pixels_back() -> None:
    patches = _patches(2)
    assert np.array_equal(denormalise(normalise(patches.permute(0, 3, 1, 2).float() / 255)), patches.numpy())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_on_cuda_equal_those_on_cpu() -> None:
    on_cpu = make_views(_patches(4), np.arange(4), settings=SETTINGS, seed=0, epoch=0)
    on_cuda = make_views(_patches(4).cuda(), np.arange(4), settings=SETTINGS, seed=0, epoch=0)
    torch.testing.assert_close(on_cuda.whole.cpu(), on_cpu.whole, rtol=0, atol=1e-3)
