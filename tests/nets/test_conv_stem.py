from __future__ import annotations

import torch
from torch import nn

from sgcl_cli.nets.conv_stem import ConvStem, renamed


def test_the_tensors_are_those_of_the_published_weights() -> None:
    stem = ConvStem(embed_dim=96, norm_layer=nn.LayerNorm, strict_img_size=True, output_fmt="NHWC")
    shapes = {name: tuple(value.shape) for name, value in stem.state_dict().items() if "num_batches" not in name}
    assert shapes == {
        "proj.0.weight": (12, 3, 3, 3), "proj.1.weight": (12,), "proj.1.bias": (12,),
        "proj.1.running_mean": (12,), "proj.1.running_var": (12,),
        "proj.3.weight": (24, 12, 3, 3), "proj.4.weight": (24,), "proj.4.bias": (24,),
        "proj.4.running_mean": (24,), "proj.4.running_var": (24,),
        "proj.6.weight": (96, 24, 1, 1), "proj.6.bias": (96,), "norm.weight": (96,), "norm.bias": (96,),
    }  # fmt: skip
    assert stem.grid_size == (56, 56) and stem.num_patches == 56**2


def test_a_map_of_a_quarter_of_the_side_with_channels_last() -> None:
    torch.manual_seed(0)
    stem = ConvStem(img_size=16, embed_dim=16).eval()
    image = torch.rand(1, 3, 16, 16)
    x = image
    for n in (0, 3):
        x = torch.relu(nn.functional.conv2d(x, stem.proj[n].weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5)
    wanted = torch.einsum("bchw,dc->bhwd", x, stem.proj[6].weight[:, :, 0, 0]) + stem.proj[6].bias
    torch.testing.assert_close(stem(image), wanted)


def test_downsampling_moves_to_the_stage_that_it_begins() -> None:
    one = torch.zeros(1)
    old = {
        "layers.0.downsample.norm.weight": one,
        "module.layers.2.downsample.norm.bias": one,
        "layers.0.blocks.0.x": one,
    }
    new = ["layers.1.downsample.norm.weight", "module.layers.3.downsample.norm.bias", "layers.0.blocks.0.x"]
    assert [*renamed(old)] == new
    assert [*renamed(renamed(old))] == new
