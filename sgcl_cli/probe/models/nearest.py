"""The kNN probe during pretraining: each row is classified by the rows of other slides. Torch only, on any device.

Shapes: N rows, D features, B rows per block, k neighbours, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK = 1_024


def leave_groups_out(
    row_ND: Tensor, label_N: Tensor, group_N: Tensor, *, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class of every row by its k nearest rows of other groups, which vote with weight exp(cos / T): int64 (N,).

    The classifier of Wu et al. (CVPR 2018). Ties take the smaller class number. Rows without rows of other groups get -1.

    :param label_N: int64, in [0, ``classes``).
    :param group_N: int64; rows of the same group (slide, patient) do not vote for each other.
    """
    row_ND = normalize(row_ND.float(), dim=1)
    parts = []
    for start in range(0, len(row_ND), _BLOCK):
        group_B = group_N[start : start + _BLOCK]
        similarity_BN = row_ND[start : start + _BLOCK] @ row_ND.T
        similarity_BN.masked_fill_(group_B[:, None] == group_N, -torch.inf)
        top_Bk, which_Bk = similarity_BN.topk(min(k, len(row_ND)), dim=1)
        weight_Bk = ((top_Bk - top_Bk[:, :1]) / temperature).exp().nan_to_num_(0.0)
        votes_BC = weight_Bk.new_zeros(len(group_B), classes).scatter_add_(1, label_N[which_Bk], weight_Bk)
        parts.append(votes_BC.argmax(1).where(votes_BC.sum(1) > 0, -1))
    return torch.cat(parts)


def balanced_accuracy(label_N: Tensor, predicted_N: Tensor, classes: int) -> float:
    """The mean recall of the classes that occur."""
    total_C = torch.bincount(label_N, minlength=classes)
    right_C = torch.bincount(label_N[label_N == predicted_N], minlength=classes)
    there_C = total_C > 0
    return float((right_C[there_C].double() / total_C[there_C].double()).mean())
