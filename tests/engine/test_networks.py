from __future__ import annotations

import torch
from torch import nn

from sgcl_cli.engine.networks import KeyNetworks, Networks
from sgcl_cli.engine.runtime import start
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.resnet import Projector


def _networks() -> Networks:
    encoder = ENCODERS["resnet18"]().eval()
    return Networks(encoder, Projector(encoder.embedding_size, 16), start("cpu", "fp32", None))


def test_rows_are_unit_and_corners_belong_to_their_patch() -> None:
    networks = _networks().eval()
    whole, corners, second = torch.rand(2, 3, 32, 32), torch.rand(4, 2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = networks(whole, corners, second)
        other = networks(second, None)
        alone = networks(corners[3], None)
    assert found.v.shape == (2, 16) and found.h.shape == (2, 512) and found.corners.shape == (4, 2, 16)
    assert all(torch.allclose(rows.norm(dim=-1), torch.ones(())) for rows in found)
    torch.testing.assert_close(found.corners[3], alone.v)
    torch.testing.assert_close(found.second, other.v)
    assert alone.corners is None and alone.second is None and found.detached().v.equal(found.v)


def test_key_networks_follow_by_momentum() -> None:
    encoder, projector = nn.Linear(3, 2), nn.Linear(2, 2)
    networks = Networks(encoder, projector, start("cpu", "fp32", None))
    keys = KeyNetworks(networks)
    expected = encoder.weight.detach().clone()
    for _ in range(3):
        with torch.no_grad():
            encoder.weight += 1
        keys.follow(networks, 0.9)
        expected = 0.9 * expected + 0.1 * encoder.weight.detach()
    torch.testing.assert_close(keys.encoder.weight, expected)
    assert not any(parameter.requires_grad for parameter in keys.parameters())
    assert torch.equal(keys.projector.weight, projector.weight)
