"""Benefit and cost of spatial guidance on real tissue: one command, one table.

    python -m benchmarks.study --size cpu --minutes 120                                 # two cores
    python -m benchmarks.study --size gpu --device cuda --processes 6 --minutes 25     # one H100 or H200
    python -m benchmarks.study --size smoke --out smoke     # minutes: tests that everything runs

Run it in the root of the repository, with the real data in ../shared/data or the folder SGCL_DATA. The protocol is study.toml
and docs/results.md. The same command resumes: finished rows are kept, a pretraining continues from its checkpoint. After
--minutes no row is started, a running pretraining writes its checkpoint, and the table marks missing rows. Several commands
with the same --out share its rows; --processes starts several at once, which uses a GPU better than one (under an MPS daemon;
otherwise they alternate). Written to --out: study.md (also printed), study.csv, study.png, learning.png, purity.png, results/
(one file for each row and seed).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study import learning, material, paired, protocol, purity, table, work
from benchmarks.study.budget import Budget
from benchmarks.study.protocol import Job, Study
from benchmarks.study.table import Line
from sgcl_cli.artefacts.lock import held
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import Interrupted, SgclError

ROOT = Path(__file__).resolve().parents[2]
Do = Callable[[Job, str], dict[str, Any]]
Reached = Callable[[Job, str], int | None]


def run(
    jobs: Sequence[Job], keys: Mapping[Job, str], folder: Path, *, budget: Budget, do: Do, reached: Reached
) -> list[Line]:
    """Run the jobs without a result, in order, while there is time; a failed job is reported and run again next time.

    A job that another process has begun is left to that process.

    :param keys: of the jobs. :param folder: of the results, by key.
    :raises Interrupted: by a signal other than that of the budget.
    """
    lines = []
    for job in jobs:
        key = keys[job]
        with held(folder / "results" / f".{key}.lock") as mine:
            result = work.stored(folder, key)
            state = "done"
            if result is None and not mine:
                state = "in another process"
            elif result is None and budget.spent:
                state = _unfinished(reached(job, key))
            elif result is None:
                result, state = _tried(job, key, folder, budget=budget, do=do, reached=reached)
        lines.append(Line(job, result, state))
    return lines


def _tried(
    job: Job, key: str, folder: Path, *, budget: Budget, do: Do, reached: Reached
) -> tuple[dict[str, Any] | None, str]:
    print(f"{job.row.name}, seed {job.seed}", file=sys.stderr, flush=True)
    try:
        with budget.enforced():
            result = do(job, key)
        work.keep(folder, key, result)
        return result, "done"
    except Interrupted:
        if not budget.spent:
            raise
        return None, _unfinished(reached(job, key))
    except SgclError as error:
        print(f"  skipped: {error.message}; {error.hint}", file=sys.stderr, flush=True)
        return None, f"skipped: {error.message}"


def side_by_side(count: int, given: Sequence[str], minutes: float | None) -> None:
    """Run this command ``count`` times without ``--processes``, and wait; the processes share the rows of one folder.

    :param given: the arguments of each, without ``--minutes``. :param minutes: the remaining time.
    """
    left = [] if minutes is None else ["--minutes", str(minutes)]
    command = [sys.executable, "-m", "benchmarks.study", *given, *left]
    others = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        for other in others:
            other.wait()
    finally:
        for other in others:
            other.terminate()
            other.wait()


def _unfinished(epochs: int | None) -> str:
    return "not run" if epochs is None else f"stopped after epoch {epochs}"


def keys_of(study: Study, jobs: Sequence[Job], found: material.Material) -> dict[Job, str]:
    """The key of the result of each job, and of the job that gives its encoder."""
    corpora = {name: PatchIndex.open(folder).id for name, folder in found.corpora.items()}
    names = [task.name for task in found.tasks]
    keys = {}
    for job in dict.fromkeys([*jobs, *map(study.base, jobs)]):
        corpus = corpora["transductive" if job.row.group == "transductive" else "inductive"]
        keys[job] = job.key(study.pretrain, corpus, found.set_ids, names)
    return keys


def _head(study: Study, index: PatchIndex, lines: Sequence[Line]) -> Iterator[str]:
    settings = ", ".join(f"{name} {value}" for name, value in study.pretrain.items())
    yield f"Size {study.size}: {settings}; corpus of {len(index):,} patches on {len(index.files)} slides."
    done = sum(line.result is not None for line in lines)
    yield f"{done} of {len(lines)} rows and seeds were run."


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="cpu", help="a table of [sizes]: cpu, gpu or smoke")
    parser.add_argument("--minutes", type=float, help="time to spend; default: until all rows are done")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--rows", default="", help="names of rows, separated by semicolons; default: those of the size")
    parser.add_argument("--config", type=Path, default=protocol.DEFAULT)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--processes", type=int, default=1, help="number of rows to run at once")
    return parser.parse_args(given)


def _one_of(arguments: argparse.Namespace) -> list[str]:
    """The arguments of one of the processes of ``side_by_side``."""
    shared = {name: value for name, value in vars(arguments).items() if name not in ("processes", "minutes")}
    shared["out"], shared["config"] = shared["out"].resolve(), shared["config"].resolve()
    return [text for name, value in shared.items() if value is not None for text in (f"--{name}", str(value))]


def main(given: Sequence[str] | None = None) -> int:
    """Run the study and print its table; returns an exit code as the commands of ``sgcl`` do."""
    try:
        return _study(_arguments(given))
    except Interrupted as error:
        return 128 + error.signum
    except SgclError as error:
        print(f"error: {error.message}; {error.hint}", file=sys.stderr)
        return error.exit_code


def _study(arguments: argparse.Namespace) -> int:
    source = Path(os.environ.get("SGCL_DATA", ROOT.parent / "shared" / "data"))
    only = [name.strip() for name in arguments.rows.split(";") if name.strip()]
    study = protocol.load(arguments.config, arguments.size, only)
    budget, out = Budget(arguments.minutes), arguments.out
    jobs = study.jobs()
    if source.is_dir():
        found = material.prepare(study, source, out, workers=arguments.workers or arguments.threads)
    else:
        print(f"real data is absent: {source} (set SGCL_DATA); using the data prepared in {out}", file=sys.stderr)
        found = material.reopen(study, out)
    bench = work.Bench(out, found, study.pretrain, arguments.device, arguments.threads, arguments.workers)
    keys = keys_of(study, jobs, found)
    if arguments.processes > 1 and not budget.spent:
        side_by_side(arguments.processes, _one_of(arguments), budget.minutes)

    def do(job: Job, key: str) -> dict[str, Any]:
        base = study.base(job)
        return work.do(bench, job, key, bench.place(base, keys[base]) / "pretrain")

    lines = run(jobs, keys, out, budget=budget, do=do, reached=lambda job, key: work.epochs_done(bench, job, key))
    tasks = {task.name: (task.metric, task.development) for task in found.tasks}
    pairs = paired.differences(lines, {name: development for name, (_, development) in tasks.items()}, out)
    near = table.radii(purity.by_radius(found.corpora["inductive"], purity.RADII))
    differences = paired.markdown(pairs) if pairs else ""
    learned = learning.markdown(lines)
    index = PatchIndex.open(found.corpora["inductive"])
    print(table.write(lines, tasks, [*_head(study, index, lines)], out, paired=differences, near=near, learned=learned))
    learning.draw(lines, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
