"""Interrupted and uninterrupted runs of ``--slides`` give the same files, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import encode
from sgcl_cli.stages.embed import embed, writer
from sgcl_cli.stages.embed.slide_source import SlideJob, _first
from tests.stages.embed.test_resume import contents
from tests.stages.embed.test_slide_source import config, tiled, write_slide


@pytest.fixture
def whole(tmp_path: Path) -> EmbedConfig:
    """A finished run over two slides of 64 patches, one with tiles that cannot be decoded."""
    slides = [write_slide(tmp_path / "slides" / f"{name}.tif", n, broken=(9, 33) * n) for n, name in enumerate("ab")]
    coords = tiled(tmp_path / "coords", *slides, coords_only=True)
    made = config(coords, tmp_path / "slides", tmp_path / "whole", batch=21, workers=1)  # 64 rows leave a batch of one
    embed(made)
    return made


def stopped(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """The sizes of the batches, the process being interrupted at one of them."""
    sizes: list[int] = []
    call = encode.FrozenEncoder.begin

    def counted(self: encode.FrozenEncoder, patches: torch.Tensor) -> Callable[[], np.ndarray]:
        sizes.append(len(patches))
        if len(sizes) == at:
            raise KeyboardInterrupt
        return call(self, patches)

    monkeypatch.setattr(encode.FrozenEncoder, "begin", counted)
    return sizes


@pytest.mark.parametrize("at", [3, 7])
def test_going_on_in_the_middle_of_a_slide(
    whole: EmbedConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int
) -> None:
    monkeypatch.setattr(writer, "_CHECKPOINT_ROWS", 1)
    again = replace(whole, out=str(tmp_path / "again"))
    with monkeypatch.context() as patched:
        stopped(patched, at)
        with pytest.raises(KeyboardInterrupt):
            embed(again)
    embed(again)
    assert contents(again.out) == contents(whole.out)


def test_other_slides_and_readers_do_not_matter(
    whole: EmbedConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = stopped(monkeypatch, 0)
    embed(replace(whole, out=str(tmp_path / "three"), workers=3))
    assert sorted(sizes) == sorted([21, 21, 21, 1, 20, 20, 21, 1])
    assert contents(tmp_path / "three") == contents(whole.out)
    (Path(whole.slides or "") / "a.tif").unlink()
    embed(replace(whole, out=str(tmp_path / "alone")))
    assert contents(tmp_path / "alone") == {"b.h5": contents(whole.out)["b.h5"]}


@pytest.mark.parametrize(("done", "first"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4)])
def test_reading_goes_on_with_a_whole_batch(done: int, first: int) -> None:
    """Rows are read in the order 1 0 3 2 4 6 5, two a batch: reading begins with the batch of the first one that is not done."""
    job = SlideJob(None, np.zeros((7, 2), np.int64), (1.0, 1.0), 1, None, None, None, done, 2)  # type: ignore[arg-type]
    assert _first(np.array([1, 0, 3, 2, 4, 6, 5]), job) == first
