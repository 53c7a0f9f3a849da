"""The direction of imports, and which room may know which library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sgcl_cli"
RANK = {
    "cli": 0,
    "stages": 1,
    "engine": 2,
    "slide": 3,
    "method": 4,
    "nets": 4,
    "probe": 4,
    "report": 4,
    "artefacts": 5,
    "config": 6,
    "progress": 7,
    "errors": 7,
}
OWNERS = {
    "typer": {"cli"},
    "rich": {"cli"},
    "openslide": {"slide"},
    "skimage": {"slide"},
    "sklearn": {"probe"},
    "torch.distributed": {"engine"},
    "jinja2": {"report"},
    "matplotlib": {"report", "slide"},
    "pebble": {"engine"},
    "distributed": {"engine"},
    "filelock": {"artefacts"},
    "timm": {"nets"},
    "transformers": {"nets"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def breaches(room: str, imports: list[str]) -> list[str]:
    """The imports that a file of a room must not have."""
    found = []
    for name in imports:
        parts = name.split(".")
        if parts[0] == "sgcl_cli":
            target = parts[1] if len(parts) > 1 else ""
            if target in RANK and room in RANK and target != room and RANK[target] <= RANK[room]:
                found.append(name)
        for library, rooms in OWNERS.items():
            if (name == library or name.startswith(library + ".")) and room not in rooms:
                found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down(path: Path) -> None:
    assert breaches(_room(path), _imports(path)) == []


def test_the_check_sees_breaches() -> None:
    assert breaches("method", ["sgcl_cli.engine.fit"]) == ["sgcl_cli.engine.fit"]
    assert breaches("probe", ["sgcl_cli.report.page"]) == ["sgcl_cli.report.page"]
    assert breaches("stages", ["typer.Option", "openslide"]) == ["typer.Option", "openslide"]
    assert breaches("engine", ["torch.distributed.nn"]) == []


def test_method_knows_torch_alone() -> None:
    allowed = {"torch", "sgcl_cli", *sys.stdlib_module_names}
    for path in (PACKAGE / "method").glob("*.py"):
        for name in _imports(path):
            assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
            if name.startswith("sgcl_cli."):
                assert name.split(".")[1] in ("method", "errors"), f"{path.name} imports {name}"


def _loaded(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_door_opens_without_heavy_libraries() -> None:
    heavy = {"torch", "cv2", "openslide", "h5py", "numpy", "sklearn", "matplotlib"}
    assert not heavy & _loaded("import sgcl_cli.cli.app")


def test_training_needs_neither_openslide_nor_opencv() -> None:
    beyond = {"openslide", "cv2", "skimage", "tifffile", "sklearn", "scipy", "matplotlib", "jinja2", "pebble", "PIL"}
    assert not beyond & _loaded("import sgcl_cli.stages.pretrain, sgcl_cli.stages.embed")


def test_tiling_does_not_load_torch_nor_what_only_figures_need() -> None:
    loaded = _loaded("from sgcl_cli.stages.tile import tile")
    assert "sgcl_cli.stages.tile.run" in loaded and not {"torch", "matplotlib"} & loaded


def test_a_worker_loads_what_one_slide_needs_alone() -> None:
    """Spawned processes import the main module and that of their task anew, which is most of the time of a small slide."""
    assert not {"typer", "numpy"} & _loaded("import sgcl_cli.__main__")
    beyond = {"typer", "jinja2", "matplotlib", "torch"}
    assert not beyond & _loaded("from sgcl_cli.stages.tile.claims import exclusively")
