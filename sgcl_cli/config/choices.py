"""Lists of choices that several modules share; help, messages and types derive from them."""

from __future__ import annotations

from typing import Literal

AnnotationsOrigin = Literal["slide", "bounds"]
IdFrom = Literal["stem", "path"]
Ink = Literal["auto", "off"]
LabelRule = Literal["majority", "any", "pure"]
Layout = Literal["sgcl", "clam", "trident"]
Precision = Literal["auto", "fp32", "bf16"]
Stain = Literal["he", "ihc", "faint"]
StainChoice = Literal["auto", "he", "ihc", "faint"]
