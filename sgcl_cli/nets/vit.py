"""Vision transformers (Dosovitskiy et al., ICLR 2021) under timm's parameter names, without the classification layer.

The state dict is that of timm's ``vit_tiny_patch16_224`` and ``vit_small_patch16_224`` made with ``num_classes=0``. For
images of other sizes than 224 the position embeddings are resampled to the lattice of patches, so one model embeds global and
corner views.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

NATIVE_SIZE = 224
_EPSILON = 1e-6
_INIT_STD = 0.02
_MLP_RATIO = 4


class SelfAttention(nn.Module):
    """Multi-head self-attention with biased joint query, key and value projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T, D) -> (B, T, D)."""
        batch, tokens, width = x.shape
        joint = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class TransformerBlock(nn.Module):
    """Attention and MLP with pre-normalisation and residual connections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T, D) -> (B, T, D)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """The token of each square of ``patch`` x ``patch`` pixels."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, D, H / patch, W / patch)."""
        out: Tensor = self.proj(x)
        return out


class VisionTransformer(nn.Module):
    """A vision transformer of ``depth`` blocks with a class token; ``embedding_size`` is D, ``patch`` is in pixels."""

    def __init__(self, width: int, depth: int, heads: int, *, patch: int = 16, native_size: int = NATIVE_SIZE) -> None:
        super().__init__()
        self.embedding_size = width
        self.patch = patch
        self.native_side = native_size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.native_side**2, width))
        self.patch_embed = PatchEmbed(patch, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=_INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the class token after the last block and the final norm (B, D)."""
        return self.tokens(x)[:, 0]

    def tokens(self, x: Tensor, blocks: int | None = None) -> Tensor:
        """Images (B, 3, H, W) -> class token and patches, row by row, (B, 1 + H W / patch^2, D), after the final norm.

        :param blocks: how many blocks to run; all by default.
        :raises ValueError: the sides are not multiples of the patch size.
        """
        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"{width} x {height} pixels do not divide into patches of {self.patch}")
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.positions(height // self.patch, width // self.patch)
        for block in self.blocks[:blocks]:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings (1, 1 + rows columns, D), resampled by antialiased bicubic interpolation if necessary.

        That of the class token is not changed.
        """
        side = self.native_side
        if (rows, columns) == (side, side):
            return self.pos_embed
        own, lattice = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        planes = lattice.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        planes = interpolate(planes, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat([own, planes.flatten(2).transpose(1, 2).to(own.dtype)], dim=1)


VITS: dict[str, tuple[int, int, int]] = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6)}
