"""``sgcl evaluate``: scores with intervals, predictions, figures and a report from features and labels.

Everything is computed before the first result is written; finished fits are stored under .cache. run.json is written last, so
a folder with run.json is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.lock import alone
from sgcl_cli.artefacts.results import Outcome, RunRecord, check_free, understood
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.engine import threads
from sgcl_cli.errors import LabelError
from sgcl_cli.probe.data import split_files
from sgcl_cli.probe.data.audit import Audit, ledger_rows
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Plan
from sgcl_cli.progress import Reporter, Silent
from sgcl_cli.stages.evaluate import efficiency, patients, redraw, report, tables
from sgcl_cli.stages.evaluate.cache import Fits
from sgcl_cli.stages.evaluate.compare import compare
from sgcl_cli.stages.evaluate.dense.run import evaluate_dense
from sgcl_cli.stages.evaluate.finetune import Tuner, open_checkpoint
from sgcl_cli.stages.evaluate.fitting import Scores, expected_seconds, fit, rough_duration
from sgcl_cli.stages.evaluate.inputs import Inputs, cohort_of, describe, open_inputs, plan_of
from sgcl_cli.stages.evaluate.keep import keep, refit_fold
from sgcl_cli.stages.evaluate.stored import stored_result


def evaluate(config: EvaluateConfig, reporter: Reporter | None = None) -> Outcome:
    """Fit probes and bag models on frozen features, and report their scores on rows that no fit or choice has used.

    Writes metrics.json, metrics.csv, predictions.csv, predictions_patients.csv, splits.csv, audit.json, figures/,
    attention/ and scores/ (slide level), models/, report.html and run.json under ``config.out``. A complete result of the same
    settings and inputs is returned unchanged; its pictures are drawn where ``config.patches`` or ``config.slides`` is new.

    :raises ConfigError: the folder holds a result of other settings or inputs, or the settings contradict the data.
    :raises LabelError: the audit found an error, e.g. a patient in two parts of a division; audit.json lists all findings.
    :raises ArtefactError: features cannot be read, or results cannot be written.
    """
    reporter = reporter or Silent()
    kind = "compare" if config.compare else "evaluate" if config.dense is None else "dense"
    check_free(Path(config.out), kind)
    with ExitStack() as opened:
        opened.enter_context(threads.held(config.threads))
        if not config.dry_run:
            opened.enter_context(alone(Path(config.out)))
        if config.compare:
            return compare(config, reporter)
        if config.dense is not None:
            return evaluate_dense(config, reporter)
        return _evaluate(config, reporter, opened)


def _evaluate(config: EvaluateConfig, reporter: Reporter, opened: ExitStack) -> Outcome:
    record = RunRecord("evaluate", config)
    out = Path(config.out)
    audit = Audit()
    with _recording_errors(audit, out, config.dry_run):
        inputs = open_inputs(config, audit)
        checkpoint = open_checkpoint(config, inputs)
        if checkpoint is not None:
            inputs.ids["finetune"] = checkpoint.card.sha256
        stored = _stored(out, config, inputs.ids)
        if stored is not None and not _redraws(config, out):
            reporter.note(f"{out} is complete under the same settings and inputs; nothing to do")
            for warning in stored.warnings:
                reporter.warn(warning)
            return stored
        cohort = cohort_of(config, inputs, audit)
        plan = plan_of(config, inputs, cohort, audit)
        tuner = None
        if checkpoint is not None:
            tuner = opened.enter_context(closing(Tuner(config, cohort, checkpoint, reporter)))
    described = [*describe(config, inputs, cohort, plan), *([] if tuner is None else [tuner.describe()])]
    for what, value, why in described:
        reporter.note(f"{what}: {value}" + (f" ({why})" if why else ""))
    for warning in audit.warnings:
        reporter.warn(warning)
    if stored is not None:
        reporter.note(f"{out} is complete under the same settings and inputs: only its pictures are drawn")
        with understood(out):
            redraw.redraw(config, inputs, cohort, plan, described)
        return _stored(out, config, inputs.ids) or stored
    if config.dry_run:
        return _planned(config, cohort, plan, audit, described, tuner=tuner)
    identity = store.artefact_id(tables.FORMAT, config.affecting(), [f"{k}={v}" for k, v in sorted(inputs.ids.items())])
    tuned = () if tuner is None else tuner.models()
    scores = fit(config, cohort, plan, Fits(out, cohort), audit, reporter=reporter, tuned=tuned)
    return _write(
        config,
        inputs,
        cohort,
        plan,
        audit,
        scores=scores,
        described=described,
        record=record,
        identity=identity,
        reporter=reporter,
    )


def _redraws(config: EvaluateConfig, out: Path) -> bool:
    with understood(out):
        return redraw.asked(config)


def _planned(
    config: EvaluateConfig,
    cohort: Cohort,
    plan: Plan,
    audit: Audit,
    described: Sequence[tuple[str, str, str]],
    *,
    tuner: Tuner | None,
) -> Outcome:
    """The outcome of a dry run: the plan, the ledger of slides, and the expected time."""
    tuning = 0.0 if tuner is None else tuner.expected_seconds(plan)
    seconds = expected_seconds(config, cohort, plan) + tuning
    found = [(what.lower(), value) for what, value, _ in described]
    data = {"plan": dict(found), "ledger": audit.ledger, "expected_seconds": round(seconds, 1)}
    counted = [(what, f"{many}: {first}" if first else str(many)) for what, many, first in ledger_rows(audit.ledger)]
    headline = [*found, *counted, ("expected time", rough_duration(seconds))]
    if tuner is not None:
        data["expected_seconds_finetune"] = round(tuning, 1)
        headline.append(("of it fine-tuning", rough_duration(tuning)))
    return Outcome("evaluate", Path(config.out), headline, cohort.slides, warnings=audit.warnings, data=data)


@contextmanager
def _recording_errors(audit: Audit, out: Path, dry_run: bool) -> Iterator[None]:
    """Write audit.json when a LabelError ends the evaluation."""
    try:
        yield
    except LabelError as error:
        if all(finding.level != "error" for finding in audit.findings):
            audit.error("labels", error.message, error.hint)
        if not dry_run and not (out / "run.json").exists():
            store.write_json(out / "audit.json", audit.as_dict())
        raise


def _stored(out: Path, config: EvaluateConfig, ids: Mapping[str, str]) -> Outcome | None:
    """The complete result of the same settings and inputs in ``out``; None where there is none.

    :raises ConfigError: the folder holds a result of other settings or inputs, and --overwrite was not given.
    """
    result = stored_result(out, config, ids)
    if result is None:
        return None
    data, warnings = result
    with understood(out):
        return _outcome(out, data, warnings)


def _outcome(out: Path, data: dict[str, Any], warnings: list[str]) -> Outcome:
    """The outcome to print, from the content of metrics.json."""
    shares = tables.share_matrix(data)
    return Outcome(
        "evaluate",
        out,
        [("report", str(out / "report.html"))],
        int(data["counts"]["slides"]),
        warnings=warnings,
        data=data,
        matrix=tables.matrix(data),
        further=() if shares is None else (shares,),
    )


def _write(
    config: EvaluateConfig,
    inputs: Inputs,
    cohort: Cohort,
    plan: Plan,
    audit: Audit,
    *,
    scores: Scores,
    described: Sequence[tuple[str, str, str]],
    record: RunRecord,
    identity: str,
    reporter: Reporter,
) -> Outcome:
    """Write all files of the result, run.json last."""
    out = Path(config.out)
    _remove_former(out)
    warnings = [*audit.warnings]
    result = tables.metrics_json(config, cohort, plan, scores, identity)
    predictions = list(tables.prediction_rows(cohort, plan, scores.models))
    files = list(tables.TABLES)
    store.write_json(out / "audit.json", audit.as_dict())
    divided = split_files.rows_of(plan, cohort.slide_id, cohort.patient_id)
    store.write_csv(out / "splits.csv", ["slide_id", "patient_id", "fold", "split"], divided)
    store.write_csv(out / "predictions.csv", tables.prediction_columns(cohort), predictions)
    store.write_csv(
        out / "predictions_patients.csv",
        patients.columns(cohort),
        list(patients.rows(cohort, plan, scores.models)),
    )
    store.write_csv(
        out / "metrics.csv",
        ["model", "metric", "scope", "value", "low", "high", "reason"],
        [*tables.tidy_metrics(scores.models), *efficiency.tidy(scores.efficiency or {})],
    )
    files += report.write_report(
        out,
        report.Finished(
            config=config,
            cohort=cohort,
            plan=plan,
            result=result,
            predictions=predictions,
            attention=scores.attention,
            patches=scores.patches,
            inferred=described,
            ledger=audit.ledger,
            warnings=warnings,
            ids=inputs.ids,
            efficiency=report.efficiency_of(result),
        ),
    )
    fitted_in = [*plan.folds, *([refit_fold(plan)] if config.refit else [])]
    files += keep(out, result, cohort, fitted_in, scores.kept)
    store.write_json(out / "metrics.json", result)
    data = {**{k: v for k, v in result.items() if k != "format"}, "files": files}
    outcome = _outcome(out, data, warnings)
    record.write(out, artefact=identity, inputs=inputs.ids, outcome=outcome)
    return outcome


def _remove_former(out: Path) -> None:
    """Remove the result that is about to be replaced, run.json first: old and new files are never mixed."""
    with store.writing(out):
        (out / "run.json").unlink(missing_ok=True)
        for pattern in report.FIGURES:
            for path in out.glob(pattern):
                path.unlink()
