"""predictions.html: the predictions, the agreement of the folds, and the scores of the models in their evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgcl_cli.artefacts.results import versions
from sgcl_cli.config import PredictConfig
from sgcl_cli.report import page
from sgcl_cli.report.evaluation import counted
from sgcl_cli.report.page import Section, Table
from sgcl_cli.stages.predict.applied import Applied, Rows

_MOST_ROWS = 200
_MOST_OPEN = 20  # slides; of more the tables are folded


def render(
    config: PredictConfig,
    card: Mapping[str, Any],
    rows: Rows,
    applied: Mapping[str, Applied],
    sections: Sequence[Section],
    *,
    warnings: Sequence[str],
    ids: Mapping[str, str],
) -> str:
    """The page as HTML.

    :param card: the card of the models.
    :param applied: predictions by model.
    :param sections: pictures.
    :param ids: identities of the inputs, by name.
    """
    folds = [*next(iter(applied.values())).folds]
    facts = [f"{card['level']} level", counted(len(rows.files), "slide"), counted(len(folds), "fold")]
    if rows.row is not None:
        facts.insert(1, counted(len(rows), "patch", "patches"))
    return page.render(
        page.Page(
            title=f"Predictions of {card['target'] if card['classes'] else card['task']}",
            facts=[*facts, f"encoder {card['features']['encoder'] or 'not recorded'}"],
            inferred=[],
            models={card["scores"][key]["name"]: card["scores"][key]["metrics"] for key in applied},
            confidence=card["confidence"],
            folds=len(folds),
            warnings=warnings,
            methods=[
                "The scores above are those of the evaluation, on its own slides. Predictions below are means over the models of "
                "the folds, with the standard deviation over folds. A model that was fitted on a slide, or on another slide of "
                "its patient, is not used for the slide unless all models were."
            ],
            command=config.command_line(),
            provenance=[*((name, value) for name, value in {**ids, **versions()}.items())],
            sections=[*_tables(card, rows, applied), *sections],
            kicker="sgcl predict",
            scores_of="Scores of these models in their evaluation",
        )
    )


def _tables(card: Mapping[str, Any], rows: Rows, applied: Mapping[str, Applied]) -> list[Section]:
    if rows.row is not None:
        return []
    tables = []
    for one in applied.values():
        mean, spread, count = one.mean, one.spread, one.used.sum(0)
        columns = ["slide", *(["predicted", "probability"] if card["classes"] else ["value"]), "± folds", "folds"]
        body = []
        for i, file in enumerate(rows.files[:_MOST_ROWS]):
            place = int(mean[i].argmax()) if card["classes"] else 0
            sd = float(spread[i, place]) if count[i] > 1 else None
            named = [card["classes"][place]] if card["classes"] else []
            body.append([file.slide_id, *named, float(mean[i, place]), sd, int(count[i])])
        left = f"The first {_MOST_ROWS} of {len(rows)}; predictions.csv has all." if len(rows) > _MOST_ROWS else ""
        tables.append(Table(one.name, columns, body, left, narrow=True))
    return [Section("Slide by slide", tables=tables, folded=len(rows) > _MOST_OPEN)]
