"""TransMIL (Shao et al. 2021): two layers of Nystrom self-attention with a convolutional position encoding between them.

Nystrom attention is that of Xiong et al. 2021. Shapes: n tokens, A heads of width F, H = A F, M landmarks.
Each bag is computed separately.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.model import BagModel, Output

HEADS = 8
ITERATIONS = 6
VALUE_KERNEL = 33
POSITION_KERNELS = (7, 5, 3)
ATTENTION_DROPOUT = 0.1


class NystromAttention(nn.Module):
    """softmax(Q K~^T / sqrt(F))  pinv( softmax(Q~ K~^T / sqrt(F)) )  softmax(Q~ K^T / sqrt(F))  V  +  conv(V).

    Q~ and K~ are the means of M consecutive groups of tokens of nearly equal size, without padding (the authors pad with
    zero tokens in front). M is at most n. The convolution runs along the tokens with a kernel of 33 per head.
    """

    def __init__(self, width: int, *, heads: int = HEADS, landmarks: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.landmarks = landmarks or max(1, width // 2)
        self.queries = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(ATTENTION_DROPOUT))
        self.conv = nn.Conv2d(heads, heads, (VALUE_KERNEL, 1), padding=(VALUE_KERNEL // 2, 0), groups=heads, bias=False)

    def forward(self, x_nH: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, H) to tokens (n, H), and the attention (n,) of the first token, averaged over heads."""
        q_AnF, k_AnF, v_AnF = self.queries(x_nH).reshape(len(x_nH), 3, self.heads, -1).permute(1, 2, 0, 3)
        q_AnF = q_AnF * q_AnF.shape[-1] ** -0.5
        groups = min(self.landmarks, len(x_nH))
        q_AMF, k_AMF = _group_means(q_AnF, groups), _group_means(k_AnF, groups)
        to_landmarks = torch.softmax(q_AnF @ k_AMF.transpose(1, 2), dim=-1)
        between = pseudo_inverse(torch.softmax(q_AMF @ k_AMF.transpose(1, 2), dim=-1))
        from_landmarks = torch.softmax(q_AMF @ k_AnF.transpose(1, 2), dim=-1)
        mixed_AnF = (to_landmarks @ between) @ (from_landmarks @ v_AnF) + self.conv(v_AnF[None])[0]
        with torch.no_grad():
            first_n = (to_landmarks[:, :1] @ between @ from_landmarks).mean(0)[0]
        return self.out(mixed_AnF.transpose(0, 1).flatten(1)), first_n


class PositionEncoding(nn.Module):
    """PPEG: x + conv7(x) + conv5(x) + conv3(x), depthwise, over the tokens arranged as a square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in POSITION_KERNELS
        )

    def forward(self, x_nH: Tensor) -> Tensor:
        """Tokens (1 + side^2, H); the first, the class token, is not changed."""
        side = math.isqrt(len(x_nH) - 1)
        square = x_nH[1:].T.reshape(1, -1, side, side)
        summed = torch.stack([square, *(conv(square) for conv in self.convs)]).sum(0)
        return torch.cat([x_nH[:1], summed[0].flatten(1).T])


class TransMil(BagModel):
    """scores = W LayerNorm(x)_class,  x = T2(PPEG(T1([class; e_1 .. e_n; e_1 .. e_p]))),  T(x) = x + Nystrom(LayerNorm(x)).

    The first p rows are repeated so that n + p is a square number. Attention is that of the class token in T2, averaged over
    heads and divided by its sum; the attention of a repeated row is added to that of the original, and negative values of
    the approximation are set to 0.
    """

    ordered = True

    def __init__(self, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int = 128, dropout: float = 0.25) -> None:
        heads = math.gcd(hidden, HEADS)
        super().__init__(mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
        self.token = nn.Parameter(torch.randn(1, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.layers = nn.ModuleList(NystromAttention(hidden, heads=heads) for _ in range(2))
        self.position = PositionEncoding(hidden)
        self.classify = nn.Linear(hidden, outputs)

    def forward(self, bags: Bags) -> Output:
        """Scores (B, K) and attention (N,)."""
        tokens, attention = zip(*map(self._bag, bags.split(self.embedded(bags))), strict=True)
        return Output(self.classify(torch.stack(tokens)), torch.cat(attention))

    def _bag(self, e_nH: Tensor) -> tuple[Tensor, Tensor]:
        count = len(e_nH)
        repeated = math.ceil(math.sqrt(count)) ** 2 - count
        x_nH = torch.cat([self.token, e_nH, e_nH[:repeated]])
        x_nH = x_nH + self.layers[0](self.norms[0](x_nH))[0]
        x_nH = self.position(x_nH)
        mixed, first_n = self.layers[1](self.norms[1](x_nH))
        weight_n = first_n[1 : count + 1].clamp(min=0)
        weight_n[:repeated] += first_n[count + 1 :].clamp(min=0)
        total = weight_n.sum()
        even = torch.full_like(weight_n, 1 / count)
        return self.norms[2](x_nH[0] + mixed[0]), torch.where(total > 0, weight_n / total, even)


def pseudo_inverse(a: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Z_{j+1} = Z_j (13 I - A Z_j (15 I - A Z_j (7 I - A Z_j))) / 4,  Z_0 = A^T / (|A|_1 |A|_inf), of matrices (..., M, M).

    The norms are taken per matrix (Xiong et al. 2021, equation 14); the released code takes the maximum over all heads.
    """
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    norms = a.abs().sum(-2).amax(-1) * a.abs().sum(-1).amax(-1)
    z = a.transpose(-1, -2) / norms[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z


def _group_means(x_AnF: Tensor, groups: int) -> Tensor:
    if groups == x_AnF.shape[1]:
        return x_AnF
    return torch.stack([part.mean(1) for part in x_AnF.tensor_split(groups, dim=1)], dim=1)
