"""Comparison of rules for the negatives of the spatial term on small corpora, over bases and seeds.

    python -m benchmarks.defaults --patches tiles/ --labelled spots/ images/ --out defaults/
    python -m benchmarks.defaults --patches small=tiles-a/ large=tiles-b/ --labelled images/ --epochs 20 5 --out defaults/

--patches are folders of ``sgcl tile``, optionally named; --epochs is one number for all of them or one for each. --labelled are
folders of labelled patches, which are classified by those of other slides, or class folders of images, in five folds. Every
cell (corpus, base, rule, seed) is one pretraining; its result is stored in --out, so that the same command resumes, and a cell
that another process has begun is left to that process.

Rows for each base: the base alone, and with the spatial term (no inner term) under each rule of ``RULES``. Columns, of the last
epoch: chance, ln(1 + K), minus the self term (more is better); L_sp of equal v, ln(1 + |Q|/|P|), minus L_sp (below 0 means
collapse); mean cosine of v with positives and with negatives; effective rank of v; the spread of v in a batch. For each labelled
folder the balanced accuracy of frozen features by 20 nearest neighbours and by logistic regression. Frozen features are
computed from whole patches, resized to 1.5 times the view.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig, ObjectiveOptions, PretrainConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.encode import FrozenEncoder
from sgcl_cli.method.resolve import resolve
from sgcl_cli.nets.resnet import BasicBlock
from sgcl_cli.probe.models.nearest import balanced_accuracy, leave_groups_out
from sgcl_cli.stages.encoders import open_encoder
from sgcl_cli.stages.pretrain import finish as stage_close
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain import run as stage

_SEMI_HARD = {"negative_law": "beta", "top_share": 0.2}
RULES: dict[str, dict[str, Any]] = {
    "alone": {"weight_spatial": 0.0},
    "4096": {"negatives": 4_096, **_SEMI_HARD},
    "k": {"negatives": "k", **_SEMI_HARD},
    "k, weight 0.35": {"negatives": "k", "weight_spatial": 0.35, **_SEMI_HARD},
    "k, long ramp": {"negatives": "k", "ramp_epochs": "epochs", **_SEMI_HARD},
    "k, uniform": {"negatives": "k", "negative_law": "uniform", "top_share": 1.0},
    "default": {},
}
_NEAREST = 20


class Small(nn.Module):
    """A residual network with one block in each of four stages, half as wide as ResNet-18: about an eighth of its cost."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        stages = [BasicBlock(32, 32, 1), BasicBlock(32, 64, 2), BasicBlock(64, 128, 2), BasicBlock(128, 256, 2)]
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> h (B, 256)."""
        h: Tensor = self.stages(self.stem(x))
        return h.mean(dim=(2, 3))


def small() -> nn.Module:
    """The encoder ``--encoder benchmarks.defaults:small``."""
    return Small()


def settings(base: str, rule: Mapping[str, Any], n: int, epochs: int, batch: int) -> dict[str, Any]:
    """The options of a cell, from base and rule."""
    resolved, _ = resolve(ObjectiveOptions(base=base), n, epochs, batch)  # type: ignore[arg-type]
    k = resolved.neighbours
    given = dict(rule)
    if given.get("negatives") == "k":
        given["negatives"] = k
    if given.get("ramp_epochs") == "epochs":
        given["ramp_epochs"] = float(epochs)
    return {"base": base, **given}


@contextmanager
def without_pictures() -> Iterator[None]:
    """Skip the figures of pretraining, which take longer than a short training."""
    with ExitStack() as stack:
        for module, name in ((stage, "views"), (stage_close, "curves"), (stage_close, "neighbours")):
            stack.enter_context(mock.patch.object(module, f"picture_{name}", lambda *_, **__: []))
        yield


def run(cell: Mapping[str, Any]) -> None:
    """Pretrain and score one cell, and write its result."""
    done = Path(cell["out"])
    done.parent.mkdir(parents=True, exist_ok=True)
    try:
        done.with_suffix(".begun").touch(exist_ok=False)
    except FileExistsError:
        return
    index = PatchIndex.open(cell["patches"])
    rule = RULES[cell["rule"]]
    chosen = settings(cell["base"], rule, len(index), cell["epochs"], cell["batch"])
    folder = done.with_suffix("")
    config = PretrainConfig.resolve(
        {
            **{name: cell[name] for name in ("patches", "epochs", "batch", "encoder", "view", "seed", "threads")},
            "lr": cell["lr"],
            "weight_inner": 0.0,
            "bank_start": cell["bank_start"],
            "out": str(folder),
            **cell.get("set", {}),
            **chosen,
        }
    )
    with without_pictures():
        outcome = pretrain(config)
    result = {
        **cell,
        "n": len(index),
        "options": chosen,
        "warnings": outcome.warnings,
        **learned(folder, outcome.data["objective"]),
        "scores": {Path(name).name: scores(folder, Path(name), cell) for name in cell["labelled"]},
    }
    store.write_json(done, result)
    for path in folder.glob("*.pt"):
        path.unlink()
    done.with_suffix(".begun").unlink()


def learned(folder: Path, objective: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the last epoch."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = [given["summary"] for line in lines if "summary" in (given := json.loads(line))][-1]
    chance = math.log(1 + objective["queue" if objective["base"] == "moco" else "uniform_negatives"])
    positives = last.get("spatial_positives", 0) + last.get("propagated_positives", 0)
    equal = math.log(1 + objective["negatives"] / positives) if positives else None
    names = ("positive_similarity", "negative_similarity", "effective_rank_v", "spread")
    return {
        "below_chance": chance - last["loss"]["self"],
        "below_equal": None if equal is None else equal - last["loss"]["spatial"],
        "negatives": objective["negatives"],
        "positives": positives,
        **{name: last.get(name) for name in names},
    }


def scores(run: Path, labelled: Path, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Balanced accuracy of frozen features by nearest neighbours and by logistic regression."""
    trusted = cell["encoder"] if ":" in cell["encoder"] else None
    images, label, group = read(labelled, round(1.5 * cell["view"]))
    opened = open_encoder(EmbedConfig(patches="-", encoder=str(run), out="-", arch=trusted))
    card = replace(opened.card, input_size=images.shape[1], resize=None)
    frozen = FrozenEncoder(card, opened.readout, engine.start("cpu", "fp32", cell["threads"]))
    rows = np.concatenate([frozen(torch.from_numpy(part)) for part in np.array_split(images, -(-len(images) // 64))])
    classes = int(label.max()) + 1
    asked = torch.from_numpy(label)
    near = leave_groups_out(torch.from_numpy(rows), asked, torch.from_numpy(group), classes=classes, k=_NEAREST)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2_000))
    by_group = len(np.unique(group)) < len(group)
    folds = GroupKFold(min(5, len(np.unique(group)))) if by_group else StratifiedKFold(5, shuffle=True, random_state=0)
    linear = cross_val_predict(model, rows, label, groups=group if by_group else None, cv=folds)
    return {
        "n": len(label),
        "knn": balanced_accuracy(asked, near, classes),
        "linear": balanced_accuracy(asked, torch.from_numpy(linear), classes),
    }


@functools.lru_cache(maxsize=8)
def read(folder: Path, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Images (n, side, side, 3), class and group of each; each image of class folders is a separate group."""
    if ImageFolder.is_one(folder):
        images = ImageFolder.open(folder, crop=1)
        pixels = [cv2.imread(str(folder / name)) for name in images.names]
        found = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in pixels if image is not None]
        label, group = images.label.astype(np.int64), np.arange(len(found))
    else:
        index = PatchIndex.open(folder, pixels=True)
        label = np.concatenate([np.full(len(f), -1) if f.label is None else f.label for f in index.files])
        kept = np.flatnonzero(label >= 0)
        found = [simplejpeg.decode_jpeg(index.read(int(row))) for row in kept]
        label, group = label[kept].astype(np.int64), index.slide_of[kept]
    shrunk = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in found]
    return np.stack(shrunk), label, group.astype(np.int64)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown: a row for each corpus, base and rule, with the values of all seeds."""
    sets = list(dict.fromkeys(name for result in results for name in result["scores"]))
    n = {name: next(r["scores"][name]["n"] for r in results if name in r["scores"]) for name in sets}
    head = ["corpus (N)", "base", "spatial term", "Q : P", "self below chance", "spatial below equal", "cos P", "cos Q"]
    head += [
        "rank of v",
        "spread",
        *(f"{name} (n = {n[name]:,}) {kind}" for name in sets for kind in ("kNN", "linear")),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    key = ("corpus", "n", "base", "rule")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda r: (r["n"], r["base"] == "moco", list(RULES).index(r["rule"]), r["seed"])):
        groups.setdefault(tuple(result[name] for name in key), []).append(result)
    for (corpus, patches, base, rule), of in groups.items():

        def several(name: str, digits: int = 2, of: list[Mapping[str, Any]] = of) -> str:
            return ", ".join("-" if r[name] is None else f"{r[name]:.{digits}f}" for r in of)

        ratio = "-" if of[0]["below_equal"] is None else f"{of[0]['negatives']:,} : {of[0]['positives']:.0f}"
        row = [f"{corpus} ({patches:,})", base, rule, ratio, several("below_chance"), several("below_equal")]
        row += [several("positive_similarity"), several("negative_similarity"), several("effective_rank_v", 1)]
        row += [several("spread")]
        for name, kind in itertools.product(sets, ("knn", "linear")):
            row.append(", ".join(f"{r['scores'][name][kind]:.3f}" if name in r["scores"] else "-" for r in of))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *against(results, sets)])


def against(results: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> list[str]:
    """Differences to the base alone by corpus, base and rule: mean over seeds, sets and probes, minimum and maximum."""
    key = ("corpus", "n", "base", "seed")
    alone = {tuple(r[name] for name in key): r for r in results if r["rule"] == "alone"}
    found: dict[tuple[Any, ...], list[float]] = {}
    for result in results:
        base = alone.get(tuple(result[name] for name in key))
        if base is not None and result["rule"] != "alone":
            place = (result["n"], result["corpus"], result["base"] == "moco", result["base"], result["rule"])
            for name, kind in itertools.product(sets, ("knn", "linear")):
                if name in result["scores"] and name in base["scores"]:
                    gain = result["scores"][name][kind] - base["scores"][name][kind]
                    found.setdefault(place, []).append(gain)
    lines = ["| corpus | base | spatial term | minus the base alone: mean | least | most | values |", "|" + "---|" * 7]
    for (_, corpus, _, base_name, rule), gains in sorted(
        found.items(), key=lambda item: (*item[0][:4], list(RULES).index(item[0][4]))
    ):
        numbers = f"{statistics.mean(gains):+.3f} | {min(gains):+.3f} | {max(gains):+.3f} | {len(gains)}"
        lines.append(f"| {corpus} | {base_name} | {rule} | {numbers} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the missing cells and print the table; returns the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", nargs="+", required=True, metavar="[NAME=]FOLDER")
    parser.add_argument("--labelled", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", nargs="+", type=int, default=[10])
    parser.add_argument("--bases", nargs="+", default=["npid", "moco"], choices=["npid", "moco"])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--encoder", default="resnet18", help="as for sgcl pretrain, or benchmarks.defaults:small")
    parser.add_argument("--view", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.0075)
    parser.add_argument("--bank-start", default="encoded", choices=["encoded", "random"])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="further settings of sgcl pretrain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--print", action="store_true", help="print the stored results without running anything")
    asked = parser.parse_args(arguments)
    corpora = [given.rpartition("=") for given in asked.patches]
    epochs = asked.epochs if len(asked.epochs) == len(corpora) else asked.epochs * len(corpora)
    cells = []
    for ((name, _, folder), count), seed, rule, base in itertools.product(
        zip(corpora, epochs, strict=True), asked.seeds, asked.rules, asked.bases
    ):
        shared = {"view": asked.view, "batch": asked.batch, "lr": asked.lr, "bank_start": asked.bank_start}
        cell = {"corpus": name or Path(folder).name, "patches": folder, "epochs": count, "encoder": asked.encoder}
        cell |= {**shared, "base": base, "rule": rule, "seed": seed, "labelled": asked.labelled}
        if asked.set:
            cell["set"] = {name: json.loads(value) for name, _, value in (given.partition("=") for given in asked.set)}
        key = store.artefact_id("defaults", cell, [])[:8]
        plain = "".join(c if c.isalnum() else "-" for c in f"{cell['corpus']}-{base}-{rule}-{seed}")
        cells.append({**cell, "threads": asked.threads, "out": str(Path(asked.out) / f"{plain}-{key}.json")})
    if not asked.print:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(asked.processes, mp_context=context) as pool:
            for _ in pool.map(run, [cell for cell in cells if not Path(cell["out"]).exists()]):
                pass
    found = [json.loads(Path(cell["out"]).read_text(encoding="utf-8")) for cell in cells if Path(cell["out"]).exists()]
    print(table(found))
    return found


if __name__ == "__main__":
    main()
