"""The optimisers of training by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_UNDECAYED = ("pos_embed", "cls_token", "reg_token", "dist_token")


def make_optimiser(
    name: str, networks: Sequence[nn.Module], *, lr: float, momentum: float, weight_decay: float, fused: bool
) -> torch.optim.Optimizer:
    """``sgd`` with momentum, all parameters decayed; or ``adamw`` (Loshchilov and Hutter, ICLR 2019), where parameters of one
    dimension (norms, biases), class tokens and position embeddings have no weight decay."""
    if name == "sgd":
        parameters = [parameter for network in networks for parameter in network.parameters()]
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    named = [pair for network in networks for pair in network.named_parameters()]
    spared = [parameter for key, parameter in named if _is_spared(key, parameter)]
    decayed = [parameter for key, parameter in named if not _is_spared(key, parameter)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, fused=fused)


def _is_spared(key: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1 or key.rpartition(".")[2] in _UNDECAYED
