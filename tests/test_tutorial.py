"""The outputs shown in docs/tutorial.md are those that its commands print, up to numbers and warnings, on synthetic slides."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile

from docs import record

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
STEPS = list(record.steps(TEXT))


def shape(output: str) -> list[str]:
    """The lines of an output without warnings and estimates; numbers, hashes and classes are masked, runs of blanks are one."""
    kept = [line for line in output.splitlines() if not line.startswith(("warning:", "expected ", "bound by "))]
    masked = [re.sub(r"\b[0-9a-f]{12}\b", "HASH", " ".join(line.split())) for line in kept]
    masked = [re.sub(r"[-+]?\d[\d.,]*(e-\d+)?", "#", line) for line in masked]
    return [re.sub(r"\b(benign|carcinoma)\b", "CLASS", line) for line in masked]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """The page's labels, and synthetic slides under the names of its slides, the same ones without a resolution."""
    sys.path.insert(0, str(ROOT / "sample_data"))
    import make_slides

    listing = next(output for commands, output in STEPS if commands.startswith("ls slides")) or ""
    names = [line for line in listing.splitlines() if line.endswith((".svs", ".tif"))]
    specs = make_slides.cohort(len(names) + 1, side_um=(520, 560))
    for spec, name in zip(specs, [*names, "cmu-1-small-region.svs"], strict=True):
        make_slides.make_slide(replace(spec, slide_id=Path(name).stem, suffix=Path(name).suffix), tmp_path)
    for name in names:
        if name.startswith("bcss"):
            with tifffile.TiffFile(tmp_path / "slides" / name, mode="r+b") as file:
                for page in file.pages:
                    page.tags["ResolutionUnit"].overwrite(1)
    (tmp_path / "new-slides").mkdir()
    (tmp_path / "slides" / "cmu-1-small-region.svs").rename(tmp_path / "new-slides" / "cmu-1-small-region.svs")
    (tmp_path / "labels.csv").write_text(listing[listing.index("slide_id,") :])
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_shows_what_its_commands_print(inputs: Path) -> None:
    printed = [(commands, shape(record.run(commands, inputs))) for commands, _ in STEPS]
    assert printed == [(commands, shape(shown or "")) for commands, shown in STEPS]


def test_every_step_of_the_tutorial_has_its_output() -> None:
    assert len(STEPS) >= 10
    assert [commands for commands, shown in STEPS if not shown or not shown.strip()] == []


def test_recording_a_page(tmp_path: Path) -> None:
    page = "a\n```sh\necho b\necho 'warning: c' >&2\n```\n\n<!-- printed -->\n```text\nold\n```\n```sh\ntrue\n```\nd\n"
    new = page.replace("old", "b\nwarning: c")
    assert record.record(page, lambda commands: record.run(commands, tmp_path)) == new
    assert [shown for _, shown in record.steps(new)] == ["b\nwarning: c\n", None]
    bars = "embed: 3/9 patches, 2 s\npretrain: 4/9 steps, 40 s, epoch 1/2 loss 14.4\nfilling banks: 4/8 batches, 3 s\n"
    assert record.without_progress(f"{bars}slides   2  \n\n") == "slides   2\n"
    with pytest.raises(record.subprocess.CalledProcessError):
        record.run("exit 2", tmp_path)
    assert record.run("echo b; exit 3", tmp_path) == "b\n"
