from __future__ import annotations

from pathlib import Path

from benchmarks.study import table
from tests.benchmarks.study.made import TASKS, lines


class TestTable:
    def test_mean_spread_and_the_first_seeds_interval(self) -> None:
        text = table.markdown(lines(), TASKS, ["Size x."])
        assert "| sgcl | 3 | 2 | 0.800 ± 0.100 [0.500, 0.900] | 0.800 ± 0.100 |" in text
        assert "| moco | 0 of 1 | - | not run |  |" in text
        assert "- No interval on her2st: 1 patient." in text
        assert "| sgcl | 0 | 42 | 1.50 | 2.0 |" in text

    def test_csv_has_every_score_and_what_did_not_run(self, tmp_path: Path) -> None:
        rows = table.tidy(lines())
        assert len(rows) == 3 * 2 * 2 + 1
        assert rows[-1] == {"row": "moco", "group": "main", "seed": 0, "state": "not run"}
        text = table.write(lines(), TASKS, ["Size x."], tmp_path)
        assert (tmp_path / "study.md").read_text() == text
        assert {"study.csv", "study.png"} <= {path.name for path in tmp_path.iterdir()}
