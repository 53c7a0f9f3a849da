"""The direction of imports, and which room may know which library; ``python -m tests.test_house`` prints who imports whom."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from sgcl_cli.config.evaluate import BAG_MODELS
from sgcl_cli.config.pretrain import RECIPES
from sgcl_cli.probe.mil.models import MODELS

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
    "pylibCZIrw": {"slide"},
    "zarr": {"slide"},
    "tifffile": {"slide"},
    "anndata": {"artefacts"},
    "pyarrow": {"artefacts"},
}
LOADS_FOREIGN_CODE = {"nets/foreign.py"}
MOST_RESULTS = 3
FILES = sorted(PACKAGE.rglob("*.py"))
Module = tuple[str, ...]  # parts of a dotted name below sgcl_cli; of a package's __init__.py, those of the package


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


def _module(path: Path) -> Module:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _arrows() -> dict[Module, set[Module]]:
    """Which modules each module imports, anywhere in its file."""
    modules = {_module(path): _imports(path) for path in FILES}
    found: dict[Module, set[Module]] = {}
    for module, names in modules.items():
        inside = [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "sgcl_cli"]
        known = [next(name[:n] for n in range(len(name), -1, -1) if name[:n] in modules) for name in inside]
        found[module] = {target for target in known if target and target != module}
    return found


def within(package: Module, arrows: Mapping[Module, Iterable[Module]]) -> dict[str, set[str]]:
    """The modules and packages that stand in a package, and which of its others each imports."""
    depth = len(package)
    found: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        if module[:depth] == package and len(module) > depth:
            others = {target[depth] for target in targets if target[:depth] == package and len(target) > depth}
            found.setdefault(module[depth], set()).update(others - {module[depth]})
    return found


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """A circle of imports, empty where there is none."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


PACKAGES = sorted({_module(path)[:depth] for path in FILES for depth in range(len(_module(path)))})


@pytest.mark.parametrize("package", PACKAGES, ids="/".join)
def test_no_circle_inside_a_package(package: Module) -> None:
    assert circle(within(package, _arrows())) == []


def test_the_check_sees_circles() -> None:
    arrows = {("a", "x"): [("a", "y", "deep")], ("a", "y", "deep"): [("b",)], ("a", "y", "other"): [("a", "x")]}
    assert within(("a",), arrows) == {"x": {"y"}, "y": {"x"}}
    assert within((), arrows) == {"a": {"b"}}
    assert set(circle(within(("a",), arrows))) == {"x", "y"} and circle(within((), arrows)) == []


def test_own_modules_are_imported_by_statements() -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if {"importlib", "importlib.import_module"} & {*_imports(path)}
    }
    assert users == LOADS_FOREIGN_CODE


def test_a_public_class_name_is_unique() -> None:
    places: dict[str, list[Module]] = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(_module(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def _trees() -> list[tuple[str, ast.Module]]:
    return [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


def long_tuples(tree: ast.AST) -> list[str]:
    """Functions whose results are a tuple of more than three."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        function.name
        for function in functions
        for part in ast.walk(function.returns or ast.Constant(None))
        if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "tuple"
        if isinstance(part.slice, ast.Tuple) and len(part.slice.elts) > MOST_RESULTS
    ]


def fields_as_parameters(tree: ast.AST) -> list[str]:
    """Dataclasses and named tuples whose docstring has ``:param`` where ``:ivar`` belongs."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and ":param" in (ast.get_docstring(node) or "")
        if "dataclass" in "".join(map(ast.unparse, node.decorator_list)) or "NamedTuple" in map(ast.unparse, node.bases)
    ]


def branches_on_messages(tree: ast.AST) -> list[int]:
    """Lines that compare or take apart the text of an error or a warning."""
    apart = {"partition", "rpartition", "split", "startswith", "endswith", "find", "index"}
    found = []
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in apart:
            sides = [node.func.value]
        found += [side.lineno for side in sides if ast.unparse(side).split(".")[-1] in ("message", "hint")]
    return found


def choices_of(tree: ast.AST) -> list[frozenset[str]]:
    """The choices of every ``Literal`` with more than one."""
    literals = [
        node for node in ast.walk(tree) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    ]
    listed = [node.slice.elts for node in literals if isinstance(node.slice, ast.Tuple)]
    return [frozenset(str(part.value) for part in parts if isinstance(part, ast.Constant)) for parts in listed]


def test_more_than_three_results_are_a_dataclass() -> None:
    assert [f"{path}: {name}" for path, tree in _trees() for name in long_tuples(tree)] == []


def test_fields_are_documented_as_fields() -> None:
    assert [f"{path}: {name}" for path, tree in _trees() for name in fields_as_parameters(tree)] == []


def test_no_branch_depends_on_the_text_of_a_message() -> None:
    assert {path: lines for path, tree in _trees() if (lines := branches_on_messages(tree))} == {}


def test_a_list_of_choices_stands_once() -> None:
    places: dict[frozenset[str], list[str]] = defaultdict(list)
    for path, tree in _trees():
        for choices in choices_of(tree):
            places[choices].append(path)
    assert {" ".join(sorted(choices)): found for choices, found in places.items() if len(found) > 1} == {}


def test_bag_models_and_recipes_are_those_that_settings_and_docs_name() -> None:
    assert tuple(MODELS) == BAG_MODELS
    docs = PACKAGE.parent / "docs"
    assert f"`--models {','.join(BAG_MODELS)}`" in (docs / "evaluate.md").read_text(encoding="utf-8")
    table = (docs / "method.md").read_text(encoding="utf-8").partition("## Recipes")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    assert sorted(named) == sorted(RECIPES)


def test_the_rules_see_what_breaks_them() -> None:
    code = """
@dataclass(frozen=True)
class Row:
    \'\'\'A row.

    :param name: of it.
    \'\'\'
def four() -> tuple[int, int, int, int]:
    if error.message.startswith("no") or "no" in warning.hint or message == "no":
        return 1, 2, 3, 4
kind: Literal["a", "b"]
"""
    tree = ast.parse(code.replace("\\'", "'"))
    assert (long_tuples(tree), fields_as_parameters(tree)) == (["four"], ["Row"])
    assert branches_on_messages(tree) == [9, 9, 9] and choices_of(tree) == [frozenset("ab")]


def test_method_knows_torch_and_the_options_of_the_objective_alone() -> None:
    allowed = {"torch", "sgcl_cli", *sys.stdlib_module_names}
    own = ("sgcl_cli.method", "sgcl_cli.errors", "sgcl_cli.config.objective")
    for path in (PACKAGE / "method").rglob("*.py"):
        for name in _imports(path):
            assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
            if name.startswith("sgcl_cli."):
                assert name.startswith(own), f"{path.name} imports {name}"


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


def test_the_study_needs_no_slides_where_it_was_prepared() -> None:
    assert not {"openslide", "cv2", "skimage"} & _loaded("import benchmarks.study.__main__")


def test_tiling_does_not_load_torch_nor_what_only_figures_need() -> None:
    loaded = _loaded("from sgcl_cli.stages.tile import tile")
    assert "sgcl_cli.stages.tile.run" in loaded and not {"torch", "matplotlib"} & loaded


def test_a_worker_loads_what_one_slide_needs_alone() -> None:
    """Spawned processes import the main module and that of their task anew, which is most of the time of a small slide."""
    assert not {"typer", "numpy"} & _loaded("import sgcl_cli.__main__")
    beyond = {"typer", "jinja2", "matplotlib", "torch"}
    assert not beyond & _loaded("from sgcl_cli.stages.tile.claims import exclusively")


def _print_house() -> None:
    arrows = _arrows()
    for package in PACKAGES:
        inside = within(package, arrows)
        count = sum(map(len, inside.values()))
        print(f"{'/'.join(('sgcl_cli', *package))}/  {len(inside)} boxes, {count} arrows")
        for name in reversed([*graphlib.TopologicalSorter(inside).static_order()]):
            print(f"  {name:<16} {' '.join(sorted(inside[name]))}".rstrip())


if __name__ == "__main__":
    _print_house()
