from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.study import learning
from benchmarks.study.table import Line
from sgcl_cli.artefacts import store
from tests.benchmarks.study.made import lines as made_lines


def test_how_pretraining_went_is_shown_by_epoch(tmp_path: Path) -> None:
    """Without banks of v, as MoCo, nothing is known of its rank."""
    entries: list[dict[str, Any]] = [{"step": 1, "loss": {"self": 9.0}}]
    for epoch, own in ((1, 8.5), (2, 7.25)):
        loss = {"total": own + 5, "self": own, "spatial": 5.0, "inner": 0.0}
        summary = {"epoch": epoch, "loss": loss, "spread": 0.5, "spatial_positives": 20.8}
        entries.append({"step": epoch, "summary": summary})
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))
    objective = {"base": "moco", "queue": 99, "uniform_negatives": 7}
    store.write_json(tmp_path / "run.json", {"result": {"objective": objective}})
    lines = made_lines()
    assert lines[0].result is not None and learning.markdown(lines) == ""
    found = learning.of_run(tmp_path)
    assert [entry["self"] for entry in found] == [8.5, 7.25]
    lines[0] = Line(lines[0].job, {**lines[0].result, "learning": found}, "done")
    assert "| sgcl | 0 | 4.61 | 7.25 | 5.00 | - | 0.50 | - | 20.80 | - | - | - |" in learning.markdown(lines)
    learning.draw(lines, tmp_path)
    assert (tmp_path / "learning.png").stat().st_size > 1000
