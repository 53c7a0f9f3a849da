"""Settings of ``sgcl embed``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sgcl_cli.config.base import REQUIRED, Config, failures_allowed, option


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """Settings of ``sgcl embed``."""

    table: ClassVar[str] = "embed"

    seed: int = option(
        0, "Seed, as every command has it; nothing here is random.", low=0, high=2**31 - 1, affects=False, panel="Run"
    )
    patches: str = option(
        REQUIRED, "Folder that sgcl tile wrote, or a folder of class folders of images.", affects=False, argument=True
    )
    encoder: str = option(
        REQUIRED, "Folder that sgcl pretrain wrote, or its encoder.safetensors or a checkpoint.", affects=False
    )
    groups: str | None = option(
        None, "Table name,group for a folder of images: the patient of each image, say.", affects=False
    )
    batch: int = option(256, "Patches in a batch.", low=1, affects=False)
    dtype: Literal["float16", "float32"] = option("float16", "How features are stored.")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Arithmetic of the encoder; auto is bf16 on CUDA, fp32 on CPU."
    )
    workers: int | None = option(
        None, "Processes that decode patches; default: from the cores.", low=0, affects=False, panel="Run"
    )
    allow_failures: str = option(
        "0", "Failed slides, as N or P%, up to which the exit code stays 0.", affects=False, panel="Run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        failures_allowed(self.allow_failures, 100)
