"""docs/notebook.ipynb runs on what the demo wrote, and docs/notebook.md has its cells."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/notebook.py; DEMO, which it sets, is put back."""
    monkeypatch.setenv("DEMO", "")
    spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_stored_without_output() -> None:
    stored = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    assert stored["nbformat"] == 4
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_page_has_the_cells_of_the_notebook(notebook: ModuleType) -> None:
    page = (DOCS / "notebook.md").read_text(encoding="utf-8")
    code = [source for kind, source in notebook.cells() if kind == "code"]
    assert re.findall(r"```python\n(.*?)\n```", page, re.DOTALL) == code
    assert all(source in page for kind, source in notebook.cells() if kind == "markdown")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert pictures and all((DOCS / picture).exists() for picture in pictures)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:The .future.infer_string. option")  # anndata's own, when it reads
def test_the_notebook_runs_on_the_demo(notebook: ModuleType, demo: Path) -> None:
    found, outputs = notebook.run(demo)
    assert [len(figures) for _, figures in outputs] == [0, 0, 0, 1, 0]
    left, right, *_ = outputs[3][1][0].axes
    assert len(left.images) == len(right.images) == 1 and len(left.collections[0].get_paths()) > 10
    assert found["reported"]["low"] < found["refitted"] < found["reported"]["high"]
    assert abs(found["refitted"] - found["reported"]["value"]) < 0.05
