"""Every line of the code blocks ``sh`` of README and docs/ is run in order on small synthetic slides, or listed here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from sgcl_cli import config
from sgcl_cli.cli.app import run
from sgcl_cli.nets.encoders import ENCODERS
from tests.test_docs import PAGES, ROOT

# Settings added to each command, so that it takes a second or two.
TINY = {
    "tile": "--mpp 2 --patch-size 64 --workers 1",
    "pretrain": "--epochs 1 --batch 16 --view 32 --corner 16 --negatives 64 --device cpu --threads 1",
    "embed": "--device cpu --threads 1",
    "evaluate": "--bootstrap 20 --mil-epochs 1 --seeds 1 --device cpu",
    "predict": "--device cpu",
}

# Further ones of commands with a word.
TINY_WITH = {
    ("embed", "resnet50.pth"): "--input-size 32",
    ("embed", "my_encoders:make"): "--input-size 32",
    ("evaluate", "--finetune"): "--finetune-epochs 1 --finetune-shares 100 --folds 2",
}

# What a page leaves to its reader, or takes from elsewhere: what the test puts in its place.
PLACEHOLDERS = {
    "timm:NAME": "run/",
    "trident_job/20x_512px_0px_overlap/": "trident_job/",
    "trident_job/20x_256px_0px_overlap/features_uni_v1/": "trident_features/",
    "../shared/data/labelled/her2st_*.tif": "slides/",
    "kinds/": "annotations/",
    "features_a/": "features/",
    "features_b/": "trident_features/",
    "../shared/data/crc5/train": "images/train",
    "../shared/data/crc5/test": "images/test",
}

# Lines that are not run, by their beginning, and why.
NOT_RUN = {
    "weights from the hub": (
        "sgcl embed tiles/ --encoder timm:hf-hub:ORG/NAME",
        "sgcl embed tiles/ --encoder uni2 ",
        "sgcl embed tiles/ --encoder conch:make ",
    ),
    "extras that tests do without": ("sgcl embed tiles/ --encoder run/ --out features/ --also anndata,parquet",),
    "masks as large as slides, which are not synthesised": (
        "sgcl tile ../shared/data/labelled/bcss_1008.tif",
        "sgcl embed bcss/",
        "sgcl evaluate b_colour ",
        "sgcl evaluate --dense ",
    ),
    "several machines": ("sgcl tile /data/slides --out /data/tiles --dask", "dask "),
    "a job script of SLURM": (
        *(
            "#!/bin/bash",
            "#SBATCH",
            "unset PYTHONPATH",
            "export SRUN_CPUS_PER_TASK",
            "export APPTAINER_TMPDIR",
            "cp -r tiles ",
        ),
        *("head=$(scontrol", "srun ", "exec sgcl tile /data/slides"),
    ),
    "a container; tests/test_container.py": ("docker ", "apptainer "),
    "installation, which CI does with make": ("python3 -m venv .venv", "pip install ", "make demo"),
    "another program": ("vips ",),
    "measurements of minutes to hours": ("python -m benchmarks.",),
    "inputs that the test makes otherwise": ("mkdir kinds", "for s in ", "sed ", "done", "printf "),
    "shows inputs and outputs": ("ls ", "cat "),
}
UNSET = {"sgcl encoders", "sgcl --help"}  # without settings


def lines(text: str) -> Iterator[str]:
    """The lines of a page's blocks ``sh``, continued lines joined, comments taken off."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield re.sub(r"(^|\s+)#(?!SBATCH|!).*", "", line.strip())


def left_out(line: str) -> bool:
    return any(line.startswith(start) for starts in NOT_RUN.values() for start in starts)


def runnable(line: str) -> list[str] | None:
    """The words after ``sgcl`` of a command; None where the line is another program's."""
    words = shlex.split(line)
    if words[:1] == ["torchrun"]:
        words = words[words.index("sgcl_cli") :]
    return words[1:] if words[:1] in (["sgcl"], ["sgcl_cli"]) else None


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages start from: slides, labels, and the outputs of each command and of other tools, from eight small slides."""
    sys.path.insert(0, str(ROOT / "sample_data"))
    import make_slides

    folder = tmp_path_factory.mktemp("given")
    make_slides.make_cohort(make_slides.cohort(8, side_um=(430, 500)), folder, 1)
    (folder / "new-slides").mkdir()
    shutil.copy(folder / "slides" / "slide_001.svs", folder / "new-slides" / "other.svs")
    weights = ENCODERS["resnet50"]().state_dict()
    torch.save(weights, folder / "resnet50.pth")
    (folder / "my_encoders.py").write_text(
        "from sgcl_cli.nets.encoders import ENCODERS\n\nmake = ENCODERS['resnet18']\n"
    )
    rng = np.random.default_rng(0)
    for part, kind, number in [(p, k, n) for p in ("train", "test") for k in ("fat", "stroma") for n in range(8)]:
        (folder / "images" / part / kind).mkdir(parents=True, exist_ok=True)
        image = rng.integers(90 if kind == "fat" else 0, 250, (224, 224, 3), np.uint8)
        (folder / "images" / part / kind / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "tile slides/ --out tiles/ --annotations annotations/",
            "tile slides/ --out clam_output/ --coords-only --layout clam",
            "tile slides/ --out trident_job/ --coords-only --layout trident",
            "pretrain tiles/ --out run/",
            "embed tiles/ --encoder run/ --out features/",
            "embed tiles/ --encoder mean-colour --out clam_features/ --layout clam",
            "embed tiles/ --encoder mean-colour --out trident_features/ --layout trident",
            "embed tiles/ --encoder run/ --out new-features/",
            "evaluate features/ --labels labels.csv --out results/",
        ):
            execute(line.split())
    return folder


def execute(words: list[str], allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command with small settings, in this process; an output under other settings is removed first."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if "--out" in words and "--overwrite" not in words:
        out = words[words.index("--out") + 1]
        if words.count(out) == 1:
            shutil.rmtree(out, ignore_errors=True)
    tiny = [] if "--compare" in words else TINY.get(words[0], "").split()
    for (command, word), more in TINY_WITH.items():
        tiny += more.split() if command == words[0] and word in words else []
    code = run([*words, *tiny])
    assert code in allowed, f"sgcl {shlex.join([*words, *tiny])} ended with exit code {code}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_its_order(
    page: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(given, folder, copy_function=os.link)
    monkeypatch.chdir(folder)
    for line in lines(page.read_text(encoding="utf-8")):
        words = None if left_out(line) else runnable(line)
        if words is not None:
            execute(words)


def small(kind: type[config.Config]) -> dict[str, object]:
    """The settings of :data:`TINY` of a command by field name."""
    words = TINY[kind.table].replace("--", "").replace("-", "_").split()
    return {name: int(value) if value.isdigit() else value for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_code_of_the_python_page_runs(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("slides", "labels.csv"):
        (tmp_path / name).symlink_to(given / name)
    for kind in config.COMMANDS:

        def made(kind: type[config.Config] = kind, **settings: object) -> config.Config:
            return kind(**{**settings, **small(kind)})

        monkeypatch.setattr(config, kind.__name__, made)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
    assert (tmp_path / "predictions" / "predictions.csv").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_line_is_run_or_listed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [line for line in lines(text) if line and runnable(line) is None and not left_out(line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_has_a_language(page: Path) -> None:
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
    assert [fence for fence in fences[::2] if fence not in ("```sh", "```text", "```python")] == []


def test_what_is_listed_is_in_a_page() -> None:
    found = [line for page in PAGES for line in lines(page.read_text(encoding="utf-8"))]
    starts = [start for group in NOT_RUN.values() for start in group]
    assert [start for start in starts if not any(line.startswith(start) for line in found)] == []
    words = {word for line in found for word in line.split()}
    assert sorted(PLACEHOLDERS.keys() - words) == []


def test_lines_of_a_page() -> None:
    text = "```sh\nsgcl tile a \\\n    --out b  # why\n#SBATCH --mem=1G\n```\n```text\nsgcl tile\n```"
    assert list(lines(text)) == ["sgcl tile a --out b", "#SBATCH --mem=1G"]
    assert runnable("torchrun --nproc-per-node 4 -m sgcl_cli embed tiles/") == ["embed", "tiles/"]
    assert runnable("make demo") is None and left_out("make demo") and not left_out("sgcl tile slides/")
