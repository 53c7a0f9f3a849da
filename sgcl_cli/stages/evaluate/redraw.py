"""Pictures of a finished evaluation, drawn when its patches or slides are given later; nothing is fitted or scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import models as kept_models
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.evaluations import Evaluated
from sgcl_cli.artefacts.results import read_run
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.stages.evaluate import report
from sgcl_cli.stages.evaluate.inputs import Inputs
from sgcl_cli.stages.evaluate.tables import TABLES, score_columns

_PICTURED = ("patches", "slides")


def asked(config: EvaluateConfig) -> bool:
    """Whether --patches or --slides has changed since the result was made, and the result has attention or scores to draw."""
    given = {name: value for name in _PICTURED if (value := getattr(config, name)) is not None}
    if not given or config.dry_run:
        return False
    run = read_run(Path(config.out))
    drawn = {name: run["config"].get(name) for name in given}
    return drawn != given and any(run["result"].get(name) is not None for name in ("attention_model", "patch_model"))


def redraw(
    config: EvaluateConfig, inputs: Inputs, cohort: Cohort, plan: Plan, described: Sequence[tuple[str, str, str]]
) -> None:
    """Write the report, its figures and the heatmaps again, from the tables of the result.

    run.json is written last, so that the same command draws again after an interruption.

    :raises ConfigError: --patches holds no patches of any slide, or --slides none of the slides.
    """
    out = Path(config.out)
    run, evaluated = read_run(out), Evaluated.open(out)
    warnings = [*run["result"]["warnings"]]
    columns_of_scores = score_columns(evaluated.result["task"], evaluated.result["classes"])
    drawn = report.write_report(
        out,
        report.Finished(
            config=config,
            cohort=cohort,
            plan=plan,
            result=evaluated.result,
            predictions=evaluated.predictions,
            attention={
                slide: columns[0].astype(np.float32)
                for slide, columns in _read(out, "attention", ["attention"], cohort)
            },
            patches={slide: np.stack(columns, 1) for slide, columns in _read(out, "scores", columns_of_scores, cohort)},
            inferred=described,
            ledger=store.read_json(out / "audit.json")["ledger"],
            warnings=warnings,
            ids=inputs.ids,
            efficiency=report.efficiency_of(evaluated.result),
        ),
    )
    former = run["result"]["files"]
    run["config"] |= {name: getattr(config, name) for name in _PICTURED}
    models = [name for name in former if name.startswith(f"{kept_models.FOLDER}/")]
    run["result"] |= {"files": [*TABLES, *drawn, *models], "warnings": warnings}
    store.write_json(out / "run.json", run)
    with store.writing(out):
        for name in set(former) - set(run["result"]["files"]):
            (out / name).unlink(missing_ok=True)


def _read(
    out: Path, folder: str, columns: Sequence[str], cohort: Cohort
) -> Iterator[tuple[str, list[NDArray[np.float64]]]]:
    """Slides that have a table in ``folder`` of the result, with the columns (N,) of the table."""
    for file, slide in zip(cohort.files, cohort.slide_id.tolist(), strict=True):
        path = out / folder / f"{file.path.stem}.csv"
        if path.is_file():
            rows = list(store.read_csv(path))
            yield slide, [np.array([float(row[name]) for row in rows]) for name in columns]
