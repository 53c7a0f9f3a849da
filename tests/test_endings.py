"""How pretrain and embed end when processes decode for them: done, interrupted, or killed; always at once, and nobody is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard, load_checkpoint, save_encoder
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.nets.encoders import ENCODERS

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")

STEPS = 18  # of a whole run
SOON = ("--checkpoint-minutes", "0.004")  # a checkpoint follows one of the first steps
LIMIT = 60  # seconds after which a command is taken to hang, on a busy machine


@dataclass(frozen=True)
class Corpus:
    """Tiny patches, ``few`` to train on and ``many`` on the second of two slides to embed; an encoder; and ``stubs``, which has a
    matplotlib that is not there."""

    few: Path
    many: Path
    encoder: Path
    stubs: Path

    def pretrain(self, out: Path, workers: int, *more: str) -> list[str]:
        """The command."""
        words = ["pretrain", self.few, "--out", out, "--workers", workers, "--epochs", 2, "--batch", 8]
        settings = ["--negatives", 16, "--bank-start", "random", "--threads", 1]
        return [*map(str, words + settings), "--device", "cpu", *more]

    def embed(self, out: Path, workers: int, *more: str) -> list[str]:
        """The command; the first slide is done soon, the second is not."""
        words = ["embed", self.many, "--encoder", self.encoder, "--out", out, "--workers", workers, "--batch", 4]
        return [*map(str, words), "--threads", "1", "--dtype", "float32", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def corpus(write_patches: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("endings")
    torch.manual_seed(0)
    card = EncoderCard("resnet18", 512, 28, MEAN, STD, 0.5, 32)
    save_encoder(folder / "encoder", card, ENCODERS["resnet18"]().state_dict())
    stub = folder / "stubs" / "matplotlib" / "__init__.py"
    stub.parent.mkdir(parents=True)
    stub.write_text("raise ModuleNotFoundError('it takes longer than a run', name='matplotlib')")
    few = write_patches(folder / "few", {"a": (4, 2), "b": (8, 8)})
    many = write_patches(folder / "many", {"a": (4, 2), "b": (24, 24)})
    return Corpus(few, many, folder / "encoder", folder / "stubs")


@dataclass
class Command:
    """A command that runs in a process group of its own, without a terminal."""

    process: subprocess.Popen[str]

    def children(self) -> list[int]:
        """The processes that it has started."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for task in tasks for word in task.read_text().split()]

    def until(self, begun: Callable[[], bool]) -> list[int]:
        """Wait until work is under way; returns the processes that decode."""
        deadline = time.monotonic() + LIMIT
        while not begun():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "it does not begin"
            time.sleep(0.01)
        return self.children()

    def end(self) -> tuple[int, str]:
        """Wait for the end, which must come with all pipes closed; returns the exit code and what was said."""
        _, said = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said


@contextmanager
def started(corpus: Corpus, words: list[str]) -> Iterator[Command]:
    def as_from_a_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell has what runs in its background ignore it

    path = os.pathsep.join([str(corpus.stubs), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "sgcl_cli", *words],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=as_from_a_terminal,
    )
    try:
        yield Command(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def gone(processes: list[int]) -> bool:
    """Whether processes end within seconds; what waits only to be buried counts as gone."""
    deadline = time.monotonic() + 10
    while any(alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run(corpus: Corpus, words: list[str]) -> tuple[int, str]:
    with started(corpus, words) as command:
        return command.end()


def lines(said: str) -> list[str]:
    assert "Traceback" not in said and "Exception ignored" not in said, said
    return said.splitlines()


def steps_done(out: Path) -> int:
    return int(load_checkpoint(out / "last.pt")["position"][2])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_dry_run_of_pretraining_ends(corpus: Corpus, tmp_path: Path, workers: int) -> None:
    code, said = run(corpus, corpus.pretrain(tmp_path / "out", workers, "--dry-run"))
    assert code == 0, said
    assert lines(said) and not (tmp_path / "out").exists()


def test_a_dry_run_of_embedding_ends(corpus: Corpus, tmp_path: Path) -> None:
    assert run(corpus, corpus.embed(tmp_path / "out", 2, "--dry-run"))[0] == 0


ALONE, GROUP = os.kill, os.killpg
INTERRUPTED = pytest.mark.parametrize(
    ("workers", "number", "send", "code"),
    [(1, signal.SIGTERM, ALONE, 143), (2, signal.SIGINT, ALONE, 130), (2, signal.SIGTERM, GROUP, 143)],
)


@pytest.mark.slow
@INTERRUPTED
def test_pretraining_that_is_interrupted_ends_and_goes_on(
    corpus: Corpus, tmp_path: Path, workers: int, number: int, send: Callable[[int, int], None], code: int
) -> None:
    out = tmp_path / "out"
    with started(corpus, corpus.pretrain(out, workers, *SOON)) as command:
        decoders = command.until((out / "last.pt").exists)
        assert len(decoders) == workers
        send(command.process.pid, number)
        ended, said = command.end()
    assert ended == code, said
    assert lines(said)[-1].startswith("interrupted")
    assert gone(decoders) and 0 < steps_done(out) < STEPS
    if send is not GROUP:
        code, said = run(corpus, corpus.pretrain(out, workers))
        assert code == 0 and "going on from step" in said and (out / "run.json").exists()
        assert steps_done(out) == STEPS


@pytest.mark.slow
@INTERRUPTED
def test_embedding_that_is_interrupted_ends_and_goes_on(
    corpus: Corpus, tmp_path: Path, workers: int, number: int, send: Callable[[int, int], None], code: int
) -> None:
    out = tmp_path / "out"
    with started(corpus, corpus.embed(out, workers)) as command:
        decoders = command.until((out / "a.h5").exists)
        assert len(decoders) == workers
        send(command.process.pid, number)
        ended, said = command.end()
    assert ended == code, said
    assert lines(said)[-1].startswith("interrupted")
    assert gone(decoders) and not (out / "b.h5").exists()
    if send is not GROUP:
        assert run(corpus, corpus.embed(out, workers))[0] == 0
        assert [len(file.features) for file in open_features(out).files] == [8, 576]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_decoder_ends_pretraining_with_one_line(corpus: Corpus, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    with started(corpus, corpus.pretrain(out, workers, *SOON)) as command:
        first, *others = command.until((out / "last.pt").exists)
        os.kill(first, signal.SIGKILL)
        code, said = command.end()
    *_, told, hint = lines(said)
    assert code == 1 and gone([first, *others]), said
    assert told == "error: a process that decodes patches died (signal 9, perhaps out of memory)"
    assert "fewer --workers" in hint and 0 < steps_done(out) < STEPS


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_decoder_costs_embedding_nothing(corpus: Corpus, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    with started(corpus, corpus.embed(out, workers)) as command:
        decoders = command.until((out / "a.h5").exists)
        os.kill(decoders[0], signal.SIGKILL)
        code, said = command.end()
    assert code == 0 and lines(said) and gone(decoders)
    file = open_features(out).by_slide()["b"]
    assert len(file.features) == 576 and len(np.unique(file.coords, axis=0)) == 576


@pytest.mark.slow
@pytest.mark.parametrize("work", ["pretrain", "embed"])
def test_nobody_decodes_for_a_command_that_was_killed(corpus: Corpus, tmp_path: Path, work: str) -> None:
    out = tmp_path / "out"
    words = corpus.embed(out, 2) if work == "embed" else corpus.pretrain(out, 2, *SOON)
    with started(corpus, words) as command:
        decoders = command.until((out / ("a.h5" if work == "embed" else "last.pt")).exists)
        assert len(decoders) == 2
        command.process.kill()
        assert gone(decoders)
        assert command.end()[0] == -signal.SIGKILL
