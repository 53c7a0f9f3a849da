"""Interrupted and uninterrupted runs give the same files, byte for byte."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import encode
from sgcl_cli.stages.embed import embed, writer

Make = Callable[..., Path]


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.h5")}


def test_going_on_by_row_after_an_interruption(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writer, "_CHECKPOINT_ROWS", 4)
    whole = replace(config, out=str(tmp_path / "whole"), batch=4)
    embed(whole)
    calls = {"count": 0, "stop_at": 6}
    call = encode.FrozenEncoder.begin

    def counted(self: encode.FrozenEncoder, patches: torch.Tensor) -> Callable[[], np.ndarray]:
        calls["count"] += 1
        if calls["count"] == calls["stop_at"]:
            raise KeyboardInterrupt
        return call(self, patches)

    monkeypatch.setattr(encode.FrozenEncoder, "begin", counted)
    with pytest.raises(KeyboardInterrupt):
        embed(replace(config, batch=4))
    assert sorted(p.name for p in Path(config.out).glob("*.h5")) == ["a.h5"]
    calls.update(count=0, stop_at=-1)
    embed(replace(config, batch=4))
    assert calls["count"] == 4  # the fifth batch was begun, its features had not been fetched
    assert contents(config.out) == contents(whole.out)


def test_kill_9_and_again(config: EmbedConfig, make_patches: Make, tmp_path: Path) -> None:
    make_patches(slides={"a": (8, 8), "b": (8, 8), "c": (8, 8)})
    embed(replace(config, out=str(tmp_path / "whole"), batch=4))
    command = [sys.executable, "-m", "sgcl_cli", "embed", config.patches, "--encoder", config.encoder]
    command += ["--out", config.out, "--dtype", "float32", "--batch", "4", "--threads", "1", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (Path(config.out) / "a.h5").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert (Path(config.out) / "a.h5").exists() and not (Path(config.out) / "run.json").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert contents(config.out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("kept", [("a",), ("b",), ("a", "b"), ("c",)])
def test_which_slides_are_there_already_does_not_matter(
    config: EmbedConfig, make_patches: Make, tmp_path: Path, kept: tuple[str, ...]
) -> None:
    counts = {"a": 5, "b": 40, "c": 4}  # 49 rows: batches of 16 across slides would leave one
    make_patches(slides={name: (count, 1) for name, count in counts.items()})
    whole = replace(config, out=str(tmp_path / "whole"), batch=16)
    embed(whole)
    for name in kept:
        (Path(config.out) / f"{name}.h5").parent.mkdir(exist_ok=True)
        (Path(config.out) / f"{name}.h5").write_bytes((Path(whole.out) / f"{name}.h5").read_bytes())
    assert embed(replace(config, batch=16)).data["computed"] == 49 - sum(counts[name] for name in kept)
    assert contents(config.out) == contents(whole.out)


def test_batches_begin_with_each_slide(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    call = encode.FrozenEncoder.begin

    def counted(self: encode.FrozenEncoder, patches: torch.Tensor) -> Callable[[], np.ndarray]:
        sizes.append(len(patches))
        return call(self, patches)

    monkeypatch.setattr(encode.FrozenEncoder, "begin", counted)
    embed(replace(config, batch=12))
    assert sizes == [12, 4, 12, 3]
