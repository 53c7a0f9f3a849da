"""The report of the study from the results of its jobs: Markdown, CSV and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.protocol import Job, Row
from sgcl_cli.artefacts import store

PROBES = {"linear": "linear", "knn": "kNN"}
METRICS = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}
COLUMNS = ("row", "group", "seed", "state", "epochs", "task", "metric", "probe", "value", "low", "high", "no_interval")


@dataclass(frozen=True)
class Line:
    """A job with its result, or the reason why there is none as ``state``."""

    job: Job
    result: Mapping[str, Any] | None
    state: str


def markdown(
    lines: Sequence[Line],
    tasks: Mapping[str, tuple[str, bool]],
    head: Sequence[str],
    *,
    paired: str = "",
    near: str = "",
    learned: str = "",
) -> str:
    """The whole report.

    :param tasks: metric, and whether the data are for development, by name.
    :param head: sentences about the data and settings.
    :param paired: the table of paired differences, if any. :param near: the table of ``radii``.
    :param learned: the table of the progress of pretraining.
    """
    rows = [*dict.fromkeys(line.job.row for line in lines if line.job.row.group != "ablation")] if lines else []
    test = [name for name, (_, development) in tasks.items() if not development]
    parts = [" ".join(head), "### Held-out data", _scores(lines, rows, tasks, test)]
    shown = [line.job.row for line in lines if line.job.row.group != "transductive" and not line.job.row.encoder]
    development = [name for name, (_, own) in tasks.items() if own]
    if any(row.group == "ablation" for row in shown):
        parts += ["### Development data", _scores(lines, [*dict.fromkeys(shown)], tasks, development)]
    parts += [*_reasons(lines), *(["### Differences in pairs", paired] if paired else [])]
    parts += ["### Pretraining", learned] if learned else []
    if any(line.job.row.pretrains for line in lines):
        parts += ["### Cost", _costs(lines)]
    pure = [text for text in (near, _purity(lines)) if text]
    return "\n\n".join([*parts, *(["### Share of the anchor's own class", *pure] if pure else [])]) + "\n"


def _scores(lines: Sequence[Line], rows: Sequence[Row], tasks: Mapping[str, tuple[str, bool]], names: list[str]) -> str:
    columns = [(name, probe) for name in names for probe in PROBES]
    head = ["row", "seeds", "epochs", *(f"{n}, {METRICS[tasks[n][0]]}, {PROBES[probe]}" for n, probe in columns)]
    body = []
    for row in rows:
        own = [line for line in lines if line.job.row == row]
        done = [line.result for line in own if line.result is not None]
        cells = [
            _cell([result["scores"][n][probe] for result in done if n in result["scores"]]) for n, probe in columns
        ]
        if not done:
            cells = [own[0].state, *[""] * (len(columns) - 1)]
        body.append([row.name, _seeds(own), _epochs(own), *cells])
    return grid(head, body)


def _seeds(own: Sequence[Line]) -> str:
    done = sum(line.result is not None for line in own)
    return str(done) if done == len(own) else f"{done} of {len(own)}"


def _epochs(own: Sequence[Line]) -> str:
    reached = {result["epochs"] for line in own if (result := line.result) is not None}
    return ", ".join(str(epochs) for epochs in sorted(e for e in reached if e is not None)) or "-"


def _cell(scores: Sequence[Mapping[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, and the interval of the first seed."""
    values = [score["value"] for score in scores]
    if not values or None in values:
        return "-" if not values else "undefined"
    text = f"{np.mean(values):.3f}"
    text += f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    low, high = scores[0]["low"], scores[0]["high"]
    return text if low is None else f"{text} [{low:.3f}, {high:.3f}]"


def _costs(lines: Sequence[Line]) -> str:
    body = []
    for line in lines:
        if not line.job.row.pretrains:
            continue
        name = [line.job.row.name, str(line.job.seed)]
        if line.result is None or line.result["cost"] is None:
            body.append([*name, line.state, "", ""])
        else:
            cost = line.result["cost"]
            body.append(
                [*name, f"{cost['images_per_second']:.0f}", f"{cost['hours']:.2f}", f"{cost['memory_gib']:.1f}"]
            )
    return grid(["pretraining", "seed", "images/s", "hours", "GiB"], body)


def _reasons(lines: Sequence[Line]) -> list[str]:
    """The reasons for missing intervals, one sentence per task and reason."""
    found = {
        f"No interval on {task}: {scores[probe]['no_interval']}."
        for line in lines
        if line.result is not None
        for task, scores in line.result["scores"].items()
        for probe in PROBES
        if scores[probe]["no_interval"]
    }
    return ["\n".join(f"- {sentence}" for sentence in sorted(found))] if found else []


def _purity(lines: Sequence[Line]) -> str:
    entries: list[Any] = next(
        (line.result["purity"] for line in lines if line.result and line.result.get("purity")), []
    )
    body = [
        [
            str(entry["epoch"]),
            scheme,
            *(_share(shares[kind]) for kind in ("spatial", "propagated", "negatives", "chance")),
        ]
        for entry in entries
        for scheme, shares in entry["schemes"].items()
    ]
    head = ["epoch", "classes", "spatial positives", "propagated positives", "semi-hard negatives", "any two patches"]
    return grid(head, body) if body else ""


def radii(entries: Sequence[Mapping[str, Any]]) -> str:
    """A table of the shares among spatial neighbours by R, from ``purity.by_radius``; empty without labelled patches."""
    body = [
        [f"{entry['radius']:g}", scheme, _share(shares["spatial"]), _share(shares["chance"])]
        for entry in entries
        for scheme, shares in entry["schemes"].items()
    ]
    return grid(["R", "classes", "spatial positives", "any two patches"], body) if body else ""


def _share(entry: Mapping[str, Any]) -> str:
    return "none" if entry["same"] is None else f"{entry['same']:.3f} of {entry['pairs']:,}"


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tidy(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Rows of study.csv, one per job, task and probe; a job without a result has one row with its state."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        job, result = line.job, line.result
        known = {"row": job.row.name, "group": job.row.group, "seed": job.seed, "state": line.state}
        if result is None:
            rows.append(known)
            continue
        for task, scores in result["scores"].items():
            for probe in PROBES:
                rows.append(
                    {**known, "epochs": result["epochs"], "task": task, "metric": scores["metric"], "probe": probe}
                    | dict(scores[probe])
                )
    return rows


def write(
    lines: Sequence[Line],
    tasks: Mapping[str, tuple[str, bool]],
    head: Sequence[str],
    out: Path,
    *,
    paired: str = "",
    near: str = "",
    learned: str = "",
) -> str:
    """Write study.md, study.csv, study.png and, if there are shares, purity.png; returns the text."""
    text = markdown(lines, tasks, head, paired=paired, near=near, learned=learned)
    store.write_text(out / "study.md", text)
    store.write_csv(out / "study.csv", COLUMNS, tidy(lines))
    draw_scores(lines, {name: metric for name, (metric, development) in tasks.items() if not development}, out)
    draw_purity(lines, out)
    return text


def draw_scores(lines: Sequence[Line], tasks: Mapping[str, str], out: Path) -> None:
    """Draw study.png: a panel per task and a line per row; dots are seeds, bars the interval of the first seed."""
    import matplotlib.pyplot as plt

    done = [line for line in lines if line.result is not None and line.job.scored_on_test]
    names = [*dict.fromkeys(line.job.row.name for line in done)]
    if not names:
        return
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(3.4 * len(tasks) + 1.6, 0.34 * len(names) + 1.4), sharey=True, layout="constrained"
    )
    for axis, (task, metric) in zip(np.atleast_1d(axes), tasks.items(), strict=True):
        for offset, (probe, colour) in zip((-0.14, 0.14), (("linear", "#1f4e79"), ("knn", "#c55a11")), strict=True):
            for line in done:
                assert line.result is not None
                score = line.result["scores"][task][probe]
                if score["value"] is None:
                    continue
                place = names.index(line.job.row.name) + offset
                axis.plot(score["value"], place, "o", color=colour, markersize=5, alpha=0.8)
                if score["low"] is not None and line.job.seed == 0:
                    axis.hlines(place, score["low"], score["high"], color=colour, linewidth=1.5)
            axis.plot([], [], "o", color=colour, label=PROBES[probe])
        axis.set_title(task)
        axis.set_xlabel(METRICS[metric])
        axis.grid(axis="x", alpha=0.3)
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(names)), names)
    first.set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=len(PROBES), fontsize="small")
    figure.savefig(out / "study.png", dpi=130)
    plt.close(figure)


def draw_purity(lines: Sequence[Line], out: Path) -> None:
    """Draw purity.png: shares of the class of the anchor by epoch, a panel per scheme."""
    import matplotlib.pyplot as plt

    entries: list[Any] = next(
        (line.result["purity"] for line in lines if line.result and line.result.get("purity")), []
    )
    if not entries:
        return
    schemes = [*entries[0]["schemes"]]
    figure, axes = plt.subplots(
        1, len(schemes), figsize=(4.4 * len(schemes), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    drawn = {
        "spatial": ("spatial positives", "#1f4e79", "-"),
        "propagated": ("propagated positives", "#2e8b57", "-"),
        "negatives": ("semi-hard negatives", "#c55a11", "-"),
        "chance": ("any two patches", "#7f7f7f", "--"),
    }
    for axis, scheme in zip(axes[0], schemes, strict=True):
        for kind, (label, colour, style) in drawn.items():
            known = [(e["epoch"], e["schemes"][scheme][kind]["same"]) for e in entries]
            points = [(epoch, share) for epoch, share in known if share is not None]
            if points:
                axis.plot(*zip(*points, strict=True), style, marker=".", color=colour, label=label)
        axis.set_title(scheme)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of the anchor's own class")
    axes[0][-1].legend(fontsize="small", loc="lower right")
    figure.savefig(out / "purity.png", dpi=130)
    plt.close(figure)
