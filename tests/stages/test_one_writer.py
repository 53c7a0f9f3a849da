"""A second run on one output is refused while the first is alive, and nothing of the first is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sgcl_cli.artefacts import lock
from sgcl_cli.config import EmbedConfig, EvaluateConfig, PretrainConfig, TileConfig
from sgcl_cli.errors import ArtefactError, ConfigError, SgclError
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.evaluate import evaluate
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.tile import tile
from sgcl_cli.stages.tile.claims import settings_of

Make = Callable[..., Path]


def commands(patches: str, out: str) -> dict[str, Callable[[], object]]:
    return {
        "pretrain": lambda: pretrain(PretrainConfig(patches=patches, out=out, batch=8, overwrite=True)),
        "embed": lambda: embed(EmbedConfig(patches=patches, out=out, encoder="mean-colour", overwrite=True)),
        "evaluate": lambda: evaluate(EvaluateConfig(features=patches, out=out, overwrite=True)),
        "compare": lambda: evaluate(EvaluateConfig(compare=(patches, patches), out=out)),
        "dense": lambda: evaluate(EvaluateConfig(dense=patches, patches=patches, encoder="mean-colour", out=out)),
    }


@pytest.mark.parametrize("name", ["pretrain", "embed", "evaluate", "compare", "dense"])
def test_the_second_run_is_refused(make_patches: Make, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    with lock.alone(out):
        (out / "last.pt").touch()
        with pytest.raises(ArtefactError, match="another run writes to .*out: process"):
            commands(str(make_patches()), str(out))[name]()
        assert (out / "last.pt").exists()
    if name == "pretrain":  # which would train now
        return
    try:
        commands(str(make_patches()), str(out))[name]()
    except SgclError as error:
        assert "another run" not in error.message


@pytest.mark.parametrize("change", [{"patch_size": 64}, {"mpp": 1.0}, {"layout": "trident"}, {"annotations": "marks"}])
def test_tiling_under_other_settings_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    first = TileConfig(slides=("absent.svs",), out=str(tmp_path / "out"))
    second = TileConfig(slides=("absent.svs",), out=str(tmp_path / "out"), **change)
    with lock.claimed(Path(first.out), settings_of(first)):
        with pytest.raises(ConfigError, match="another run with other settings writes to .*out"):
            tile(second)
        with pytest.raises(ConfigError, match="no such file or folder: absent.svs"):
            tile(first)
    with pytest.raises(ConfigError, match="no such file or folder: absent.svs"):
        tile(second)
