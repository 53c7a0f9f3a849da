from __future__ import annotations

import pytest
import torch

from sgcl_cli.probe.mil import transmil
from sgcl_cli.probe.mil.transmil import NystromAttention, PositionEncoding, pseudo_inverse


def exact(layer: NystromAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention with the same weights, token by token."""
    heads = layer.heads
    q, k, v = layer.queries(x).chunk(3, dim=1)
    width = x.shape[1] // heads
    mixed, first = torch.zeros_like(x), torch.zeros(len(x), dtype=x.dtype)
    kernel = layer.conv.weight[:, 0, :, 0]
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(x)):
            a = torch.softmax(torch.stack([q[i, part] @ k[j, part] for j in range(len(x))]) / width**0.5, 0)
            mixed[i, part] = sum(a[j] * v[j, part] for j in range(len(x)))
            for offset in range(-16, 17):
                if 0 <= i + offset < len(x):
                    mixed[i, part] += kernel[h, offset + 16] * v[i + offset, part]
            if i == 0:
                first += a / heads
    return layer.out(mixed), first


def test_with_a_landmark_for_every_token_it_is_exact_attention(monkeypatch):
    torch.manual_seed(0)
    layer = NystromAttention(8, heads=2, landmarks=64).double().eval()
    x = 3 * torch.randn(11, 8, dtype=torch.double)
    monkeypatch.setattr(transmil.pseudo_inverse, "__defaults__", (60,))
    with torch.no_grad():
        mixed, first = layer(x)
        expected, weight = exact(layer, x)
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(first, weight, atol=1e-6, rtol=1e-6)


def test_landmarks_are_means_of_consecutive_tokens():
    means = transmil._group_means(torch.arange(7.0).reshape(1, 7, 1), 3)
    assert means.flatten().tolist() == [1.0, 3.5, 5.5]


def test_pseudo_inverse_converges():
    torch.manual_seed(0)
    a = torch.softmax(torch.randn(3, 12, 12, dtype=torch.double), -1)
    torch.testing.assert_close(pseudo_inverse(a, 40), torch.linalg.inv(a), atol=1e-6, rtol=1e-6)


def test_position_encoding_sees_the_square():
    torch.manual_seed(0)
    layer = PositionEncoding(4).double()
    x = torch.randn(26, 4, dtype=torch.double)
    found = layer(x)
    assert torch.equal(found[0], x[0])
    column, row, unit = 1, 3, 2
    expected = x[1 + 5 * row + column, unit]
    for conv in layer.convs:
        kernel = conv.weight[unit, 0]
        half = kernel.shape[0] // 2
        expected = expected + conv.bias[unit]
        for dy in range(-half, half + 1):
            for dx in range(-half, half + 1):
                if 0 <= row + dy < 5 and 0 <= column + dx < 5:
                    expected = expected + kernel[dy + half, dx + half] * x[1 + 5 * (row + dy) + column + dx, unit]
    assert found[1 + 5 * row + column, unit].item() == pytest.approx(expected.item(), abs=1e-12)


def test_long_bags_use_few_landmarks(make, bags):
    layer = NystromAttention(8, heads=2, landmarks=4).eval()
    mixed, first = layer(torch.randn(1000, 8))
    assert mixed.shape == (1000, 8)
    assert first.shape == (1000,)
    assert torch.isfinite(mixed).all()
