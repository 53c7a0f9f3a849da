from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sgcl_cli.artefacts.results import Failure
from sgcl_cli.stages.tile.job import Job, Row
from sgcl_cli.stages.tile.page import write_page

MakeJob = Callable[..., Job]
MakeRow = Callable[..., Row]


def page(job: Job, *rows: Row, failures: tuple[Failure, ...] = (), **settings: object) -> str:
    out = Path(job.config.out)
    given = {"warnings": [], "warned": {}, "names": (), "artefact": "tile-1234", **settings}
    write_page(out, job.config, rows, failures, **given)  # type: ignore[arg-type]
    return (out / "index.html").read_text(encoding="utf-8")


def test_the_page_counts_slides_and_patches(make_job: MakeJob, make_row: MakeRow) -> None:
    html = page(make_job(), make_row("a", patches=1200), make_row("b", patches=34, tissue_mm2=0.25))
    assert "2 slides, 1,234 patches" in html and "1.8 mm² of tissue" in html
    assert "64 px at 2 um/px" in html and "tile-1234" in html


def test_failures_say_what_to_do(make_job: MakeJob, make_row: MakeRow) -> None:
    html = page(make_job(), make_row(), failures=(Failure("z", "z.svs", "it is damaged", "scan again"),))
    assert "it is damaged. What to do: scan again" in html and "1 failed" in html and "z.svs" in html


def test_warnings_stand_with_their_slides(make_job: MakeJob, make_row: MakeRow) -> None:
    html = page(make_job(), make_row(), warnings=["resolutions differ"], warned={"a": "much ink"})
    assert "resolutions differ" in html and "much ink" in html and "warned" in html


def test_classes_are_counted_with_those_of_no_class(make_job: MakeJob, make_row: MakeRow) -> None:
    rows = [make_row("a", labels={"tumour": 70}), make_row("b", labels={"tumour": 7, "fat": 11})]
    html = page(make_job(), *rows, names=("fat", "tumour"))
    assert all(text in html for text in ("tumour", "fat", "unknown", "77", "152"))
    assert "unknown" not in page(make_job(), make_row())


def test_overlays_are_on_the_page_and_names_are_escaped(make_job: MakeJob, make_row: MakeRow) -> None:
    job = make_job()
    assert "data:image/jpeg" not in page(job, make_row())
    overlays = Path(job.config.out) / "overlays"
    overlays.mkdir()
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(overlays / "a.jpg")
    html = page(job, replace(make_row(), path="<script>.svs"))
    assert "data:image/jpeg" in html and "<script>.svs" not in html and "&lt;script&gt;.svs" in html
