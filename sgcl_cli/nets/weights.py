"""Loading weights whose names differ from those of the network: prefixes of wrappers, classifier heads, containers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.errors import ArtefactError

PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "encoder.",
    "encoder_q.",
    "backbone.",
    "base_encoder.",
    "vit.",
    "resnet.",
)
HEADS = ("fc.", "head.", "heads.", "head_dist.", "classifier.", "pre_logits.", "projector.", "projection_head.")
_NAMED = 4


@dataclass(frozen=True)
class WeightsFit:
    """How a state dict fits a network.

    :ivar container: the part of the file that was used; empty for the whole.
    :ivar matched: tensors of the network that were loaded.
    :ivar total: tensors of the network.
    :ivar heads: keys of classifiers and projectors, which are not used.
    :ivar unused: other keys that the network does not have.
    """

    container: str
    matched: int
    total: int
    heads: tuple[str, ...]
    unused: tuple[str, ...]

    def describe(self) -> str:
        """A summary in one line."""
        parts = [
            f"{self.matched} of {self.total} tensors matched" + (f" from '{self.container}'" if self.container else "")
        ]
        if self.heads:
            parts.append(f"heads left aside: {listed(self.heads, _NAMED)}")
        if self.unused:
            parts.append(f"{len(self.unused)} unused: {listed(self.unused, _NAMED)}")
        return "; ".join(parts)


def fit_weights(
    network: nn.Module,
    groups: Mapping[str, Mapping[str, Tensor]],
    *,
    arch: str,
    where: str,
    optional: tuple[str, ...] = (),
) -> WeightsFit:
    """Load the one of ``groups``, named parts of a file, that fits best; every tensor must be present in its shape.

    Prefixes of wrappers are removed until a name of the network remains. Counters of batch norm
    (``num_batches_tracked``), which old files lack, may be absent.

    :param optional: prefixes of names that may be absent as well.
    :raises ArtefactError: no group has all tensors in their shapes, or one has a tensor twice.
    """
    wanted = network.state_dict()
    pairings = {name: _pair(wanted, group) for name, group in groups.items()}
    if not pairings:
        raise ArtefactError(f"{where} holds no tensors", "give a state dict: names and tensors")
    best = max(pairings, key=lambda name: len(pairings[name]))
    group, pairs = groups[best], pairings[best]
    _refuse_duplicates(pairs, where)
    found = dict(pairs)
    required = [name for name in wanted if not name.endswith("num_batches_tracked") and not name.startswith(optional)]
    missing = [name for name in required if name not in found]
    if missing:
        raise ArtefactError(
            f"the weights do not fit {arch}: {where} lacks {len(missing)} of its {len(required)} tensors, "
            f"{listed(missing, _NAMED)}; it holds {listed(list(group), _NAMED)}",
            "give weights of this architecture, or name theirs",
        )
    wrong = [name for name, key in pairs if wanted[name].shape != group[key].shape]
    if wrong:
        first = wrong[0]
        raise ArtefactError(
            f"the weights do not fit {arch}: {len(wrong)} tensors of {where} have other shapes, '{found[first]}' is "
            f"{tuple(group[found[first]].shape)}, not {tuple(wanted[first].shape)}",
            "give weights of this architecture, or name theirs",
        )
    network.load_state_dict({**wanted, **{name: group[key] for name, key in pairs}})
    used = set(found.values())
    rest = [key for key in group if key not in used]
    heads = tuple(key for key in rest if any(name.startswith(HEADS) for name in _names(key)))
    return WeightsFit(best, len(pairs), len(wanted), heads, tuple(key for key in rest if key not in heads))


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict, sorted by name, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _names(key: str) -> Iterator[str]:
    """A key, and the keys that remain as its prefixes are removed one by one."""
    yield key
    for prefix in PREFIXES:
        if key.startswith(prefix):
            yield from _names(key.removeprefix(prefix))


def _pair(wanted: Mapping[str, Tensor], group: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """(name in the network, key in the group) of every key that matches a name."""
    paired = ((next((name for name in _names(key) if name in wanted), None), key) for key in group)
    return [(name, key) for name, key in paired if name is not None]


def _refuse_duplicates(pairs: list[tuple[str, str]], where: str) -> None:
    first: dict[str, str] = {}
    for name, key in pairs:
        if name in first:
            raise ArtefactError(
                f"{where} holds '{name}' twice, as '{first[name]}' and '{key}'", "save the encoder that is meant alone"
            )
        first[name] = key
