"""What bag models and the C path cost, against a plain loop and cold fits.

    python benchmarks/evaluate.py                                  # reduced: minutes on two cores
    python benchmarks/evaluate.py --full                           # 400 slides x 5,000 patches x 512, 5 folds x 3 seeds
    python benchmarks/evaluate.py --full --bag-sample 256 --seeds 1
    python benchmarks/evaluate.py --only path
    python benchmarks/evaluate.py --only cohort --full --bag-sample 256 --seeds 1 --threads 2 --out FOLDER
    python benchmarks/evaluate.py --only scores --slides 200 --patches 5000 --bag-sample 256 --seeds 1 --repeats 1 --out FOLDER

whole     gated ABMIL over all folds and seeds as `sgcl evaluate` fits it: all features in memory once, packed batches, early
          stop on validation loss; wall time, CPU time, bags and patches per second, peak memory. Without --full its size is
          that of the flags, and the time of 400 x 5,000 x 512 is printed as an estimate from one timed epoch at that bag size.
epoch     one epoch of the same, split into the model's own forward and backward and everything else (packing, standard
          deviations, order, optimiser, the check of the loss): the overhead
plain     one epoch of a plain loop: batch 1, the bag's HDF5 file opened for every bag, the same model, optimiser and rows
path      logistic regression at eight C, warm-started, against cold fits of scikit-learn at equal tolerance of the gradient;
          "apart" is the largest difference of coefficients relative to the largest: at scikit-learn's 1e-4 the two are not yet
          equal, at 1e-6 they nearly are
cohort    `sgcl evaluate` itself, from features and table on disk to the report: wall and CPU time of each part, peak memory, the
          time of the full default, estimated from one timed epoch, and the plain loop on a few of the bags. --out keeps the
          features (2 GB with --full), so that another run finds them
scores    `sgcl evaluate` and `sgcl predict` with and without each patch's score by itself (scores/*.csv and the heatmaps on the
          slides), on a cohort of --slides x --patches x --dim; the ratio is with / without, of CPU time and of wall time

Features are synthetic, float16, class 1 with a shifted tenth of its patches. Times of plain and ours alternate; ratios are
medians of the ratios within a repeat. The file cache is warm for both.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.config import EvaluateConfig, PredictConfig
from sgcl_cli.engine import fit as engine_fit
from sgcl_cli.engine import runtime as engine_runtime
from sgcl_cli.probe.data import splits
from sgcl_cli.probe.mil import bags as packed
from sgcl_cli.probe.mil import models, training
from sgcl_cli.probe.models import linear
from sgcl_cli.probe.models.penalised import walk
from sgcl_cli.probe.models.standardise import Standardiser
from sgcl_cli.probe.models.targets import Classes
from sgcl_cli.progress import Silent, Task
from sgcl_cli.stages.evaluate import evaluate, mil, patch_scores
from sgcl_cli.stages.predict import predict

FULL = (400, 5000, 512)
SMALL_BAG = 50
SHOWN = 16  # level-0 pixels of a patch on the slides of `scores`
LR, WEIGHT_DECAY = mil.MilRecipe().lr, mil.WEIGHT_DECAY


def rows_of(slide: int, patches: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng([7, slide])
    rows = rng.standard_normal((patches, dim), dtype=np.float32)
    if slide % 2:
        rows[: max(1, patches // 10), : dim // 8] += 0.5
    return rows.astype(np.float16)


def cohort_of(slides: int, patches: int, dim: int) -> training.BagCohort:
    rows = np.empty((slides * patches, dim), dtype=np.float16)
    for slide in range(slides):
        rows[slide * patches : (slide + 1) * patches] = rows_of(slide, patches, dim)
    offsets = torch.arange(0, slides * patches + 1, patches)
    names = np.array([f"s{slide:05d}" for slide in range(slides)])
    return training.BagCohort.of(
        packed.Bags(torch.from_numpy(rows), offsets), Classes(torch.arange(slides) % 2, 2), names
    )


def plan_of(slides: int, folds: int) -> splits.Plan:
    names = np.array([f"s{slide:05d}" for slide in range(slides)])
    return splits.cross_validation(names, np.arange(slides) % 2, names, classes=("a", "b"), folds=folds)


def work_of(
    cohort: training.BagCohort, fold: splits.Fold, bag_sample: int | None, seed: int = 0
) -> tuple[training.BagTraining, torch.optim.Optimizer]:
    mean, scale = packed.row_statistics(cohort.bags, fold.train[:20])
    with engine_runtime.seeded(seed):
        model = models.build("gated-abmil", mean, scale, outputs=2, hidden=128, dropout=0.25)
    work = training.BagTraining(
        model, cohort, fold.train, fold.train[:0], patience=99, seed=seed, bag_sample=bag_sample
    )
    return work, torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)


def ours(cohort: training.BagCohort, fold: splits.Fold, bag_sample: int | None) -> Callable[[], None]:
    """One epoch through the engine's loop."""
    work, optimiser = work_of(cohort, fold, bag_sample)
    with mil.threads_for(work.rows_per_step):
        threads = torch.get_num_threads()

    def epoch() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        engine_fit.fit(work, optimiser, epochs=1, lr=lambda step: LR)
        torch.set_num_threads(before)

    return epoch


def bare(cohort: training.BagCohort, fold: splits.Fold, bag_sample: int | None) -> Callable[[], None]:
    """The model's forward and backward on the same batches, packed and standardised beforehand where it is not the model's."""
    work, _ = work_of(cohort, fold, bag_sample)
    prepared = [
        (cohort.bags.take(batch.bags, batch.draw), torch.from_numpy(batch.bags)) for batch in work.batches(0, 0)
    ]
    with mil.threads_for(work.rows_per_step):
        threads = torch.get_num_threads()

    def epoch() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        work.model.train()
        for bags, chosen in prepared:
            for parameter in work.model.parameters():
                parameter.grad = None
            work.model.loss(work.model(bags), bags, cohort.target, chosen).backward()
        torch.set_num_threads(before)

    return epoch


def plain(paths: Sequence[Path], fold: splits.Fold, bag_sample: int | None, dim: int) -> Callable[[], None]:
    """Batch 1, the file opened for every bag; the model is ours on a single bag, standardisation by constants."""
    with engine_runtime.seeded(0):
        model = models.build("gated-abmil", torch.zeros(dim), torch.ones(dim), outputs=2, hidden=128, dropout=0.25)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(0)

    def epoch() -> None:
        model.train()
        for slide in rng.permutation(fold.train).tolist():
            with h5py.File(paths[slide]) as file:
                rows = torch.from_numpy(file["features"][:].astype(np.float32))
            if bag_sample is not None and len(rows) > bag_sample:
                rows = rows[torch.from_numpy(rng.choice(len(rows), bag_sample, replace=False))]
            optimiser.zero_grad()
            scores = model(packed.Bags(rows, torch.tensor([0, len(rows)]))).scores
            loss = torch.nn.functional.cross_entropy(scores, torch.tensor([slide % 2]))
            loss.backward()
            optimiser.step()
            loss.item()

    return epoch


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak() -> float:
    """MiB of this process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def epochs(slides: int, patches: int, dim: int, repeats: int, bag_sample: int | None) -> float:
    """Compare one epoch three ways; returns our CPU seconds per training bag."""
    cohort = cohort_of(slides, patches, dim)
    fold = plan_of(slides, 5).folds[0]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{slide}.h5" for slide in range(slides)]
        for slide in fold.train.tolist():
            with h5py.File(paths[slide], "w") as file:
                file["features"] = cohort.bags.rows[slide * patches : (slide + 1) * patches].numpy()
        ways = {
            "ours": ours(cohort, fold, bag_sample),
            "bare": bare(cohort, fold, bag_sample),
            "plain": plain(paths, fold, bag_sample, dim),
        }
        for way in ways.values():
            way()
        runs = [{name: timed(way) for name, way in ways.items()} for _ in range(repeats)]
    count = len(fold.train)
    print(
        f"\none epoch, {count} training bags of {patches} rows x {dim}"
        + (f", {bag_sample} drawn" if bag_sample else "")
    )
    for name in ways:
        wall, cpu = (statistics.median(run[name][kind] for run in runs) for kind in (0, 1))
        rate = f"{count / cpu:9.1f} bags / CPU s {count * patches / cpu:12,.0f} patches / CPU s"
        print(f"{name:6} wall {wall:7.2f} s   CPU {cpu:7.2f} s {rate}")
    overhead = [run["ours"][1] / run["bare"][1] - 1 for run in runs]
    gain = [[run["plain"][kind] / run["ours"][kind] for run in runs] for kind in (0, 1)]
    print(
        f"overhead beyond forward and backward {statistics.median(overhead):.0%} of CPU (repeats {_listed(overhead)})"
    )
    print(f"plain / ours {statistics.median(gain[0]):.2f} wall, {statistics.median(gain[1]):.2f} CPU")
    return statistics.median(run["ours"][1] for run in runs) / count


def whole(slides: int, patches: int, dim: int, *, folds: int, seeds: int, recipe: mil.MilRecipe) -> None:
    """All folds and seeds."""
    start = peak()
    building = time.perf_counter()
    cohort = cohort_of(slides, patches, dim)
    made = time.perf_counter() - building
    size = cohort.bags.rows.numel() * cohort.bags.rows.element_size() / 2**20
    seen = 0
    wall, cpu = time.perf_counter(), time.process_time()
    ran = []
    for fold in plan_of(slides, folds).folds:
        fitted = mil.fit_fold(recipe, cohort, fold, mil.seeds_of(0, seeds, fold))
        ran += fitted.epochs
        seen += sum(fitted.epochs) * len(fold.train) + seeds * (len(fold.test) + len(fold.validation))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = min(patches, recipe.bag_sample or patches)
    drawn = f", {recipe.bag_sample} rows drawn" if recipe.bag_sample else ""
    size_of_it = f"{slides} slides x {patches} x {dim}, {folds} folds x {seeds} seeds{drawn}"
    print(f"\ngated ABMIL, {size_of_it}: {wall:.0f} s wall, {cpu:.0f} s CPU")
    print(f"epochs {min(ran)} to {max(ran)}; {seen / wall:.0f} bags/s, about {seen * rows / wall:,.0f} patches/s")
    print(f"features {size:.0f} MiB, made in {made:.0f} s; peak {peak():.0f} MiB ({start:.0f} before the features)")


def estimate(per_bag: float, folds: int, seeds: int, recipe: mil.MilRecipe) -> None:
    """What the full default would cost in CPU time, if every model ran all its epochs; nothing was run."""
    slides = FULL[0]
    train, validation, test = (round(slides * share) for share in (0.64, 0.16, 0.2))
    forward = per_bag / 3
    one = recipe.epochs * (train * per_bag + validation * forward) + (test + validation) * forward
    total = folds * seeds * one
    print(
        f"estimate, not run: {FULL[0]} x {FULL[1]} x {FULL[2]}, {folds} folds x {seeds} seeds, all {recipe.epochs} epochs: "
        f"{total / 60:.0f} CPU minutes (early stopping makes it less; forward counted as a third of a step)"
    )


def path(rows: int, dim: int, classes: int, repeats: int, tolerance: float) -> None:
    """The C path against cold fits."""
    rng = np.random.default_rng(0)
    label = np.arange(rows) % classes
    factors = rng.normal(size=(rows, 64)) * (np.arange(1, 65) ** -0.7)
    features = factors @ rng.normal(size=(64, dim)) + 0.1 * rng.normal(size=(rows, dim))
    features += 0.1 * rng.normal(size=(classes, dim))[label]
    features = Standardiser.fit(features)(features)
    loss = linear.CrossEntropy.of(label)

    def warm() -> list[np.ndarray]:
        return [s.coefficients.T for s in walk(features, loss, linear.C_PATH, tolerance=tolerance)]

    def cold() -> list[np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = [LogisticRegression(C=c, max_iter=2000, tol=tolerance).fit(features, label) for c in linear.C_PATH]
        return [model.coef_ for model in fits]

    found: dict[str, list[np.ndarray]] = {}

    def kept(name: str, way: Callable[[], list[np.ndarray]]) -> Callable[[], None]:
        def action() -> None:
            found[name] = way()

        return action

    ways = {"path": kept("path", warm), "cold": kept("cold", cold)}
    runs = [{name: timed(way)[1] for name, way in ways.items()} for _ in range(repeats)]
    ratio = statistics.median(run["cold"] / run["path"] for run in runs)
    apart = max(
        float(np.abs(one - other).max() / np.abs(other).max())
        for one, other in zip(found["path"], found["cold"], strict=True)
    )
    both = "   ".join(f"{name} {statistics.median(run[name] for run in runs):.2f} CPU s" for name in ways)
    print(
        f"{rows} x {dim}, {classes} classes, tolerance {tolerance:g}: {both}   cold / path {ratio:.1f}   apart {apart:.1e}"
    )


class Stopwatch(Silent):
    """Wall and CPU seconds of the parts of ``sgcl evaluate``, told apart by what it reports of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, list[float]] = {}
        self._from, self._name = self._now(), "inputs, audit, division"

    def begin(self, name: str) -> None:
        now = self._now()
        spent = self.parts.setdefault(self._name, [0.0, 0.0])
        for kind in (0, 1):
            spent[kind] += now[kind] - self._from[kind]
        self._from, self._name = now, name

    def note(self, message: str) -> None:
        self.begin("packing, mean pooling")

    def task(self, name: str, total: int | None, unit: str) -> Task:
        return _Part(self)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


class _Part:
    """The bar of the fits: each note names the model at work."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def advance(self, units: int = 1) -> None: ...

    def update(self, *, total: int | None = None, note: str | None = None) -> None:
        if note is not None:
            self._watch.begin(note.rpartition(", fold ")[0])

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.begin("tables, figures, report")


def stored(folder: Path, slides: int, patches: int, dim: int, *, side: int = 256) -> Path:
    """Features and labels of a cohort on disk, as sgcl embed writes them; existing files are kept.

    :param side: of a patch, level-0 pixels.
    """
    features = folder / f"features-{slides}x{patches}x{dim}-{side}"
    features.mkdir(parents=True, exist_ok=True)
    for slide in range(slides):
        path = features / f"s{slide:05d}.h5"
        if path.exists():
            continue
        attributes = {
            "slide_id": path.stem,
            "encoder": "synthetic",
            "encoder_sha256": "",
            "patches_id": "",
            "config": "{}",
        }
        columns = columns_of(patches)
        grid = np.stack([np.arange(patches) % columns, np.arange(patches) // columns], axis=1).astype(np.int32)
        with FeatureWriter(path, path.stem, dim, "float16") as writer:
            writer.append(rows_of(slide, patches, dim))
            coords = grid.astype(np.int64) * side
            writer.finish({"coords": coords, "grid": grid}, attributes, {"patch_size_level0": side})
    with (features.parent / "labels.csv").open("w") as table:
        table.write("slide_id,label\n" + "".join(f"s{slide:05d},{'ab'[slide % 2]}\n" for slide in range(slides)))
    return features


def columns_of(patches: int) -> int:
    """Columns of the square that the patches of a slide fill."""
    return int(np.ceil(np.sqrt(patches)))


def pictured(folder: Path, slides: int, patches: int) -> Path:
    """Small slides (TIFF), on which heatmaps are drawn."""
    made = folder / f"slides-{slides}x{patches}"
    made.mkdir(parents=True, exist_ok=True)
    size = SHOWN * columns_of(patches)
    for slide in range(slides):
        path = made / f"s{slide:05d}.tif"
        if not path.exists():
            Image.new("RGB", (size, size), (200, 150, 180 + slide % 50)).save(path, compression="tiff_deflate")
    return made


def scores(
    out: Path, slides: int, patches: int, dim: int, *, folds: int, seeds: int, recipe: mil.MilRecipe, repeats: int
) -> None:
    """`sgcl evaluate` and `sgcl predict` with and without scores of single patches, in turn."""
    features = stored(out, slides, patches, dim, side=SHOWN)
    given = {"slides": str(pictured(out, slides, patches)), "threads": torch.get_num_threads(), "device": "cpu"}
    result, predicted = out / "results", out / "predictions"
    fitted = EvaluateConfig(
        features=str(features),
        labels=str(out / "labels.csv"),
        out=str(result),
        folds=folds,
        seeds=seeds,
        bag_sample=recipe.bag_sample,
        mil_epochs=recipe.epochs,
        **given,
    )
    applied = PredictConfig(result=str(result), features=str(features), out=str(predicted), use="folds", **given)
    commands: dict[str, tuple[Callable[[], object], Path]] = {
        "evaluate": (lambda: evaluate(fitted), result),
        "predict": (lambda: predict(applied), predicted),
    }
    drawn = f", {recipe.bag_sample} rows drawn" if recipe.bag_sample else ""
    print(f"\nscores of patches, {slides} slides x {patches} x {dim}, {folds} folds x {seeds} seeds{drawn}")
    for name, (command, folder) in commands.items():
        runs = []
        for _ in range(repeats):
            spent = {}
            for way in ("without", "with"):
                shutil.rmtree(folder, ignore_errors=True)
                chosen = patch_scores.model_of if way == "with" else lambda *_: None
                with mock.patch.object(patch_scores, "model_of", chosen):
                    spent[way] = timed(command)
                print(f"  {name:9} {way:8} wall {spent[way][0]:8.1f} s   CPU {spent[way][1]:8.1f} s", flush=True)
            runs.append(spent)
        wall, cpu = (statistics.median(one["with"][kind] / one["without"][kind] for one in runs) for kind in (0, 1))
        print(f"  {name:9} with / without {wall:.2f} wall, {cpu:.2f} CPU")
    print(f"  peak {peak():.0f} MiB")


def suite(
    out: Path, slides: int, patches: int, dim: int, *, folds: int, seeds: int, recipe: mil.MilRecipe, few: int
) -> None:
    """The whole command, then one epoch on a few bags, from memory and by the plain loop."""
    building = time.perf_counter()
    features = stored(out, slides, patches, dim)
    print(
        f"\nfeatures in {features}, made or found in {time.perf_counter() - building:.0f} s; {peak():.0f} MiB at the peak"
    )
    config = EvaluateConfig(
        features=str(features),
        labels=str(out / "labels.csv"),
        out=str(out / "results"),
        folds=folds,
        seeds=seeds,
        bag_sample=recipe.bag_sample,
        mil_epochs=recipe.epochs,
        threads=torch.get_num_threads(),
        device="cpu",
        overwrite=True,
    )
    shutil.rmtree(out / "results", ignore_errors=True)
    watch = Stopwatch()
    found = evaluate(config, watch).data["models"]
    watch.begin("")
    wall, cpu = (sum(spent[kind] for spent in watch.parts.values()) for kind in (0, 1))
    drawn = f", {recipe.bag_sample} rows drawn" if recipe.bag_sample else ""
    print(f"sgcl evaluate, {slides} slides x {patches} x {dim}, {folds} folds x {seeds} seeds{drawn}:")
    for name, spent in [*watch.parts.items(), ("all", [wall, cpu])]:
        print(f"  {name:40} wall {spent[0]:8.1f} s   CPU {spent[1]:8.1f} s")
    ran = [epochs for fit in found["gated-abmil"]["fits"].values() for epochs in fit["epochs"]]
    print(
        f"  peak {peak():.0f} MiB; epochs {min(ran)} to {max(ran)}; AUROC {found['gated-abmil']['metrics']['auroc']['value']:.3f}"
    )
    print(f"one epoch on {few} bags")
    cohort = cohort_of(few, patches, dim)
    fold = splits.Fold("0", np.arange(few), np.arange(0), np.arange(0))
    seconds: dict[str, tuple[float, float]] = {}
    for name, way in {
        "ours": ours(cohort, fold, recipe.bag_sample),
        "plain": plain([features / f"s{slide:05d}.h5" for slide in range(few)], fold, recipe.bag_sample, dim),
        "ours, whole bags": ours(cohort, fold, None),
    }.items():
        way()
        seconds[name] = timed(way)
        print(f"  {name:40} wall {seconds[name][0]:8.2f} s   CPU {seconds[name][1]:8.2f} s")
    gain = [seconds["plain"][kind] / seconds["ours"][kind] for kind in (0, 1)]
    print(f"  plain / ours {gain[0]:.1f} wall, {gain[1]:.1f} CPU")
    estimate(seconds["ours, whole bags"][1] / few, 5, 3, mil.MilRecipe())


def _listed(shares: list[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def settings() -> Iterator[tuple[int, int, int]]:
    yield 600, 512, 2
    yield 3000, 512, 9
    yield 20_000, 256, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=80)
    parser.add_argument("--patches", type=int, default=500)
    parser.add_argument("--dim", type=int, default=FULL[2])
    parser.add_argument("--full", action="store_true", help="400 slides x 5,000 patches x 512")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=mil.MilRecipe().epochs)
    parser.add_argument("--bag-sample", type=int)
    parser.add_argument("--small-bags", type=int, default=1000, help="bags of 50 rows in the epoch comparison")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-4, 1e-6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["whole", "epoch", "path", "cohort", "scores"])
    parser.add_argument("--out", type=Path, help="where the cohort's features and results stay; default: nowhere")
    parser.add_argument("--few", type=int, default=20, help="bags of the plain loop beside the cohort")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start, {arguments.threads} threads")
    recipe = replace(mil.MilRecipe(), epochs=arguments.epochs, bag_sample=arguments.bag_sample)
    fits: dict[str, Any] = {"folds": arguments.folds, "seeds": arguments.seeds, "recipe": recipe}
    if arguments.only in (None, "epoch"):
        epochs(arguments.small_bags, SMALL_BAG, arguments.dim, arguments.repeats, None)
        per_bag = epochs(40, FULL[1], arguments.dim, arguments.repeats, arguments.bag_sample)
        if not arguments.full:
            estimate(per_bag, arguments.folds, arguments.seeds, recipe)
    if arguments.only in (None, "whole"):
        size = FULL if arguments.full else (arguments.slides, arguments.patches, arguments.dim)
        whole(*size, **fits)
    if arguments.only in (None, "path"):
        print("\nlogistic regression at eight C")
        for rows, dim, classes in settings():
            for tolerance in arguments.tolerances:
                path(rows, dim, classes, arguments.repeats, tolerance)
    if arguments.only == "cohort":
        size = FULL if arguments.full else (arguments.slides, arguments.patches, arguments.dim)
        with tempfile.TemporaryDirectory() as folder:
            suite(arguments.out or Path(folder), *size, **fits, few=arguments.few)
    if arguments.only == "scores":
        size = FULL if arguments.full else (arguments.slides, arguments.patches, arguments.dim)
        with tempfile.TemporaryDirectory() as folder:
            scores(arguments.out or Path(folder), *size, **fits, repeats=arguments.repeats)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
