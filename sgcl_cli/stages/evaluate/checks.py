"""Audit of the scores: labels that seem inverted, targets that the number of patches predicts, fits that did not converge."""

from __future__ import annotations

from collections.abc import Sequence

from sgcl_cli.artefacts.evaluations import BASELINE, METRIC_NAMES, PATCH_COUNT
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.stages.evaluate.scores import HEADLINES, Scored

INVERTED = 0.4
NEARLY = 0.02
INFORMATIVE = 0.05
_CHANCE = {"auroc": 0.5, "c_index": 0.5, "spearman": 0.0}


def check_scores(scored: Sequence[Scored], task: str, audit: Audit) -> list[str]:
    """Add warnings to the audit and return them.

    They concern an AUROC or C-index below 0.4; a score of the patch count within 0.02 of the best model's and at least 0.05
    above chance; and fits that did not converge.
    """
    before = len(audit.findings)
    metric = HEADLINES[task]
    metric_name = METRIC_NAMES[metric]
    values = {model.key: model.headlines[metric].value for model in scored}
    names = {model.key: model.name for model in scored}
    fitted = {key: value for key, value in values.items() if key != BASELINE and value is not None}
    for key, value in fitted.items():
        if metric in ("auroc", "c_index") and value < INVERTED and key != PATCH_COUNT:
            audit.warn("inverted", f"{names[key]}: {metric_name} {value:.3f} is below {INVERTED}: are labels inverted?")
    count = fitted.pop(PATCH_COUNT, None)
    if count is not None and fitted:
        best = max(fitted, key=lambda key: fitted[key])
        if count > _CHANCE[metric] + INFORMATIVE and count > fitted[best] - NEARLY:
            audit.warn(
                "patch_count",
                f"the number of patches alone reaches {metric_name} {count:.3f}, the best model ({names[best]}) "
                f"{fitted[best]:.3f}: models may predict from the size of the tissue alone",
            )
    for model in scored:
        unconverged = [name for name, details in model.folds.items() if details.get("converged") is False]
        if unconverged:
            audit.warn("convergence", f"{model.name} did not converge in fold {', '.join(unconverged)}")
    return [finding.message for finding in audit.findings[before:]]
