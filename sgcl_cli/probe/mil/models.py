"""The bag models by name."""

from __future__ import annotations

from torch import Tensor

from sgcl_cli.probe.mil.abmil import Attention, GatedAttention
from sgcl_cli.probe.mil.clam import Clam
from sgcl_cli.probe.mil.dsmil import DualStream
from sgcl_cli.probe.mil.model import BagModel
from sgcl_cli.probe.mil.pooling import MaxPool, MeanPool
from sgcl_cli.probe.mil.transmil import TransMil

MODELS: dict[str, tuple[type[BagModel], str]] = {
    "mean": (MeanPool, "Mean of embedded patches"),
    "max": (MaxPool, "Maximum of embedded patches"),
    "abmil": (Attention, "Attention (ABMIL)"),
    "gated-abmil": (GatedAttention, "Gated attention (ABMIL)"),
    "clam-sb": (Clam, "CLAM, single branch"),
    "dsmil": (DualStream, "Dual stream (DSMIL)"),
    "transmil": (TransMil, "TransMIL"),
}


def build(name: str, mean: Tensor, scale: Tensor, *, outputs: int, hidden: int, dropout: float) -> BagModel:
    """A new model, initialised from torch's global generator.

    :param name: a key of ``MODELS``.
    :param mean, scale: (D,) of the training rows, see ``bags.row_statistics``.
    """
    return MODELS[name][0](mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)
