from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.readout import Readout, read_own
from sgcl_cli.nets.vit import VisionTransformer


def _fixed(value: Tensor, pool: str, **how: object) -> Tensor:
    return Readout(nn.Identity(), lambda _: value, pool, **how)(torch.zeros(2, 3, 32, 32))


TOKENS = torch.arange(2 * 5 * 3.0).view(2, 5, 3)  # one class token, then four patches


def test_tokens() -> None:
    assert torch.equal(_fixed(TOKENS, "auto"), TOKENS[:, 0])
    assert torch.equal(_fixed(TOKENS, "cls"), TOKENS[:, 0])
    assert torch.equal(_fixed(TOKENS, "mean"), (TOKENS[:, 1] + TOKENS[:, 2] + TOKENS[:, 3] + TOKENS[:, 4]) / 4)
    assert torch.equal(_fixed(TOKENS, "cls+mean"), torch.cat([TOKENS[:, 0], TOKENS[:, 1:].mean(1)], 1))


def test_register_tokens_are_not_part_of_the_mean() -> None:
    found = _fixed(TOKENS, "mean", prefix=lambda tokens, height, width: tokens - 2)
    assert torch.equal(found, (TOKENS[:, 3] + TOKENS[:, 4]) / 2)


@pytest.mark.parametrize("how", [{"prefix": lambda *_: 0}, {"has_class": False}])
def test_tokens_without_a_class_token(how: dict) -> None:
    with pytest.raises(ConfigError, match="--pool cls: the encoder has no class token"):
        _fixed(TOKENS, "cls", **how)
    assert torch.equal(_fixed(TOKENS, "auto", **how), _fixed(TOKENS, "mean", **how))


def test_maps_and_vectors() -> None:
    maps = torch.randn(2, 3, 4, 4)
    for pool in ("auto", "mean"):
        assert torch.equal(_fixed(maps, pool), maps.mean(dim=(2, 3)))
    with pytest.raises(ConfigError, match=r"--pool cls: the encoder gives maps without a class token .*--pool auto"):
        _fixed(maps, "cls")
    assert torch.equal(_fixed(maps[:, :, 0, 0], "auto"), maps[:, :, 0, 0])
    with pytest.raises(ConfigError, match="--pool mean: the encoder gives one vector an image"):
        _fixed(maps[:, :, 0, 0], "mean")


def test_maps_stay_and_tokens_are_laid_out_row_by_row() -> None:
    maps, image = torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 32, 32)
    assert torch.equal(Readout(nn.Identity(), lambda _: maps, "auto").maps(image), maps)
    found = Readout(nn.Identity(), lambda _: TOKENS, "cls").maps(image)
    assert torch.equal(found, torch.stack([TOKENS[:, 1:3], TOKENS[:, 3:5]], 1).permute(0, 3, 1, 2))
    apart = Readout(nn.Identity(), lambda _: TOKENS[:, 0], "auto", spatial=lambda _: TOKENS)
    assert torch.equal(apart.maps(image), found) and torch.equal(apart(image), TOKENS[:, 0])


def test_what_has_no_square_of_places_is_refused() -> None:
    image = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ConfigError, match="one vector an image and no map"):
        Readout(nn.Identity(), lambda _: TOKENS[:, 0], "auto").maps(image)
    with pytest.raises(ConfigError, match="5 tokens an image, which are no square map"):
        Readout(nn.Identity(), lambda _: TOKENS, "mean", prefix=lambda *_: 0).maps(image)


def test_the_map_of_a_vision_transformer_lies_as_the_image() -> None:
    network = VisionTransformer(24, 1, 2, patch=4, native_size=16).eval()
    x = torch.zeros(1, 3, 16, 16)
    x[..., 4:8, 8:12] = 9.0  # the second row, third column of patches
    with torch.inference_mode():
        readout = read_own(network, None, "auto")
        moved = (readout.maps(x) - readout.maps(torch.zeros_like(x))).abs().sum(1)[0]
    assert divmod(int(moved.argmax()), 4) == (1, 2)


def test_stages_of_a_resnet() -> None:
    torch.manual_seed(0)
    network, x = ENCODERS["resnet18"]().eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(read_own(network, None, "auto")(x), network(x))
        assert torch.equal(read_own(network, "layer4", "mean")(x), network(x))
        second = network.layer2(network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x))))))
        assert torch.equal(read_own(network, "layer2", "auto")(x), second.mean(dim=(2, 3)))
    with pytest.raises(ConfigError, match="the encoder has no layer 'block3' .*layer1 to layer4"):
        read_own(network, "block3", "auto")


def test_blocks_of_a_vision_transformer() -> None:
    torch.manual_seed(0)
    network, x = VisionTransformer(24, 3, 2, patch=4, native_size=16).eval(), torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(read_own(network, None, "auto")(x), network(x))
        inside = network.patch_embed(x).flatten(2).transpose(1, 2)
        inside = torch.cat([network.cls_token.expand(2, 1, -1), inside], 1) + network.pos_embed
        expected = network.norm(network.blocks[1](network.blocks[0](inside)))
        assert torch.equal(read_own(network, "block2", "auto")(x), expected[:, 0])
        assert torch.equal(read_own(network, "block2", "mean")(x), expected[:, 1:].mean(1))
        assert read_own(network, None, "cls+mean")(x).shape == (2, 48)
    with pytest.raises(ConfigError, match="block1 to block3"):
        read_own(network, "block4", "auto")
