from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.engine.pool import Progress
from sgcl_cli.errors import SlideError
from sgcl_cli.slide.read import bands
from sgcl_cli.stages.tile.job import Job, patches_path
from sgcl_cli.stages.tile.slide import tile_slide

MakeJob = Callable[..., Job]


def tiled(job: Job) -> PatchFile:
    tile_slide(Progress(0), job)
    return PatchFile.open(patches_path(job.config, "a"))


def test_patches_are_the_pixels_at_their_corners(make_job: MakeJob) -> None:
    job = make_job(jpeg_quality=98)
    made, pixels = tiled(job), tifffile.imread(job.entry.path).astype(int)
    for row in (0, len(made) // 2, len(made) - 1):
        x, y = made.coords[row]
        patch = np.asarray(Image.open(io.BytesIO(made.read(row)))).astype(int)
        assert np.abs(patch - pixels[y : y + 64, x : x + 64]).mean() < 4


def test_coordinates_alone_read_nothing(make_job: MakeJob) -> None:
    made = tiled(make_job(coords_only=True))
    assert not made.has_pixels and (made.source["path"], made.source["path_why"]) == ("none", "coordinates alone")


def test_a_slide_without_patches_says_so(make_job: MakeJob) -> None:
    made = tiled(make_job(tissue=False))
    assert (len(made), made.source["path"], made.source["path_why"]) == (0, "none", "no patches")


def unreadable(monkeypatch: pytest.MonkeyPatch, lost: Callable[[int], bool]) -> None:
    read = bands.read

    def failing(*arguments: object) -> object:
        for position, file in read(*arguments):  # type: ignore[arg-type]
            yield position, SlideError("tile 7 is damaged", "scan again") if lost(position) else file

    monkeypatch.setattr(bands, "read", failing)


def test_patches_that_cannot_be_read_are_left_out(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    whole = tiled(job)
    coords = whole.coords.tolist()
    patches_path(job.config, "a").unlink()
    unreadable(monkeypatch, lambda position: position in (1, 4))
    made = tiled(job)
    assert made.source["unreadable"] == [coords[1], coords[4]]
    assert made.coords.tolist() == [one for number, one in enumerate(coords) if number not in (1, 4)]


def test_a_slide_of_which_nothing_can_be_read_is_refused(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    unreadable(monkeypatch, lambda position: True)
    with pytest.raises(SlideError, match=r"none of \d+ patches can be read; first: tile 7 is damaged") as caught:
        tile_slide(Progress(0), job)
    assert caught.value.hint == "scan again" and not Path(job.config.out, "patches", "a.h5").exists()
