"""The container image: what its Dockerfile promises, and, where images can be built, the demo in it as any user."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from sgcl_cli import __version__
from sgcl_cli.cli.app import run

ROOT = Path(__file__).parents[1]
BASE = "python:3.12-slim-bookworm"
PACKAGES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
SOMEONE = "12345:12345"  # has no entry in the image's /etc/passwd


class Instruction(NamedTuple):
    stage: int
    name: str
    text: str


def instructions() -> list[Instruction]:
    """The instructions of the Dockerfile, continuation lines joined; stages count from 0."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found, stage = [], -1
    for line in text.replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name:
            stage += name == "FROM"
            found.append(Instruction(stage, name, rest))
    return found


def of(name: str, stage: int | None = None) -> list[str]:
    return [each.text for each in instructions() if each.name == name and stage in (None, each.stage)]


def test_both_stages_have_one_base() -> None:
    """The environment is copied from one to the other, and its python is the base's."""
    assert [text.split(" ")[0] for text in of("FROM")] == [BASE, BASE]


def test_the_user_is_a_number_other_than_root() -> None:
    """A number: Kubernetes cannot verify runAsNonRoot by a name."""
    assert int(of("USER", stage=1)[-1]) > 0
    last = [each.name for each in instructions()].index("USER")
    assert [each.name for each in instructions()[last:]] == ["USER", "WORKDIR", "ENTRYPOINT", "CMD"]


def test_the_final_stage_needs_no_network() -> None:
    assert of("ADD") == []
    for text in of("RUN", stage=1):
        assert not re.search(r"\b(pip|apt|apt-get|curl|wget|git)\b", text), text


def test_packages_are_pinned_and_no_index_is_named() -> None:
    installs = [step for text in of("RUN") for step in text.split("&&") if "pip install" in step]
    assert installs and all("--constraint pins.txt" in step for step in installs)
    assert {*PACKAGES, "TORCH", "EXTRAS"} == set(of("ARG"))
    assert "://" not in "".join(each.text for each in instructions())


def test_what_is_copied_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    copied = {source for text in of("COPY", stage=0) for source in text.split()[:-1]}
    assert copied == {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)


def test_the_label_has_the_packages_version() -> None:
    (labels,) = of("LABEL")
    assert f'image.version="{__version__}"' in labels


@pytest.mark.parametrize(
    ("torch", "taken", "left"),
    [
        ("", ("{}", "{}+cpu", "{}+cu126"), ()),
        ("cuda", ("{}",), ("{}+cpu", "{}+cu126")),
        ("cpu", ("{}+cpu",), ("{}", "{}+cu126")),
    ],
)
def test_the_argument_torch_chooses_the_wheel(
    torch: str, taken: tuple[str, ...], left: tuple[str, ...], tmp_path: Path
) -> None:
    """The step of the Dockerfile is run; of pinned packages only torch's line is changed."""
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    (step,) = [text for text in of("RUN") if "pins.txt" in text and "pip" not in text]
    subprocess.run(["sh", "-ec", step], cwd=tmp_path, env={**os.environ, "TORCH": torch}, check=True)
    before = (tmp_path / "constraints.txt").read_text().splitlines()
    pinned = (tmp_path / "pins.txt").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, pinned, strict=True) if old.startswith("torch==") or old != new]
    ((old, new),) = changed
    version = old.removeprefix("torch==")
    allowed = Requirement(new).specifier
    assert all(wheel.format(version) in allowed for wheel in taken)
    assert not any(wheel.format(version) in allowed for wheel in left)


def commands_in_containers() -> list[list[str]]:
    """The words after ``sgcl`` of every command that docs/clusters.md runs in a container; 1 for each shell variable."""
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        ours = re.search(r"\b(?:sgcl|sgcl_cli|sgcl\.sif) +((?:tile|pretrain|embed) .*)", line)
        if ours and ("docker run" in line or "apptainer" in line):
            found.append(shlex.split(re.sub(r"\$\w+", "1", ours[1]), comments=True))
    return found


def test_commands_of_the_page_on_clusters_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands_in_containers()
    assert [words[0] for words in found] == ["tile", "pretrain", "pretrain", "tile", "tile", "pretrain", "embed"]
    for words in found:
        assert run([*words, "--print-config"]) == 0, f"{words}\n{capsys.readouterr().err}"


# What follows needs a program that builds images, and the base image.


def _answers(*words: str) -> bool:
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def builder() -> str:
    """docker, podman or buildah, whichever is first to answer."""
    for name in ("docker", "podman", "buildah"):
        if shutil.which(name) and _answers(name, "info"):
            if _answers(name, "inspect", "--type", "image", BASE) or _answers(name, "pull", BASE):
                return name
            pytest.skip(f"{name} has no image {BASE} and cannot pull it")
    pytest.skip("neither docker nor podman nor buildah answers, so no image can be built")


@pytest.fixture(scope="module")
def image(builder: str) -> Iterator[str]:
    """An image of the working tree; where packages come from is as in the environment, SGCL_TORCH is the argument TORCH."""
    name = "sgcl-test"
    given = {key: os.environ[key] for key in PACKAGES if key in os.environ}
    given["TORCH"] = os.environ.get("SGCL_TORCH", "")
    arguments = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    subprocess.run([builder, "build", "--tag", name, *arguments, "."], cwd=ROOT, check=True)
    yield name
    subprocess.run([builder, "rmi", name], capture_output=True)


def _run(builder: str, image: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the image without network, as a user that it does not know; ``folder`` is /data."""
    settings = ["--user", SOMEONE, "--volume", f"{folder}:/data", "--env", "SLIDES=8", "--env", "EPOCHS=1"]
    if builder != "buildah":
        command = [builder, "run", "--rm", "--network", "none", *settings, "--entrypoint", words[0], image, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True)
    container = subprocess.run(["buildah", "from", image], capture_output=True, text=True, check=True).stdout.strip()
    try:
        command = ["buildah", "run", *settings, container, "--", *words]
        return subprocess.run(command, capture_output=True, text=True)
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True, check=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_demo_runs_in_the_image_as_any_user(builder: str, image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    who = _run(builder, image, tmp_path, "id", "-u")
    assert who.stdout.strip() == SOMEONE.partition(":")[0], who.stderr
    done = _run(builder, image, tmp_path, "bash", "/opt/sgcl/share/sample_data/demo.sh", "demo")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "comparison" / "compare.html").stat().st_uid == int(SOMEONE.partition(":")[0])
