"""The trained networks, encoder f and projector g as one module, and MoCo's key networks."""

from __future__ import annotations

import copy
import shutil

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import Views
from sgcl_cli.errors import ConfigError
from sgcl_cli.method.objective import Embedded


class Networks(nn.Module):
    """f and g on a runtime's device. One call embeds all views of a batch, so that a step has one forward."""

    def __init__(self, encoder: nn.Module, projector: nn.Module, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime
        self.encoder = encoder.to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projector = projector.to(runtime.device)

    def forward(self, whole: Tensor, corners: Tensor | None, second: Tensor | None = None) -> Embedded:
        """Images, normalised: ``whole`` and ``second`` (B, 3, view, view), ``corners`` (4, B, 3, corner, corner)."""
        v, h = self._embed(whole)
        small = None if corners is None else self._embed(corners.flatten(0, 1))[0].view(4, corners.shape[1], -1)
        return Embedded(v, h, small, None if second is None else self._embed(second)[0])

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        with self.runtime.autocast():
            h = self.encoder(images)
            v = self.projector(h)
        return normalize(v.float(), dim=1), normalize(h.float(), dim=1)


class KeyNetworks(Networks):
    """MoCo's key encoder and projector, momentum averages of the trained ones without gradient (He et al., CVPR 2020)."""

    def __init__(self, networks: Networks) -> None:
        super().__init__(copy.deepcopy(networks.encoder), copy.deepcopy(networks.projector), networks.runtime)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, whole: Tensor, corners: Tensor | None, second: Tensor | None = None) -> Embedded:
        """As ``Networks``, without gradient."""
        return super().forward(whole, corners, second)

    def keys_of(self, views: Views) -> Embedded:
        """The keys of a batch: of its second global views, and of its quarters."""
        assert views.second is not None
        keys: Embedded = self(views.second, views.corners)
        return keys

    @torch.no_grad()
    def follow(self, networks: Networks, momentum: float) -> None:
        """key <- momentum key + (1 - momentum) query, parameters only; batch norm keeps its own statistics."""
        for key, query in zip(self.parameters(), networks.parameters(), strict=True):
            key.lerp_(query, 1 - momentum)


def compiled(networks: Networks) -> nn.Module:
    """The networks compiled by torch.compile at their first call; parameters are shared, shapes must not change.

    :raises ConfigError: there is no C++ compiler, which torch needs on a CPU.
    """
    if networks.runtime.device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ConfigError("--compile needs a C++ compiler on the CPU", "install g++, or leave --compile out")
    module: nn.Module = torch.compile(networks, dynamic=False)  # type: ignore[assignment]
    return module
