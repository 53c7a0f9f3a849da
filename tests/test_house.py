"""Rules about the structure of the package: direction of imports, owners of libraries, style.

``python -m tests.test_house`` prints the imports of every module.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from sgcl_cli.config.pretrain import RECIPES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sgcl_cli"
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


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def breaches(room: str, imports: list[str]) -> list[str]:
    """The forbidden ones among the imports of a file in a room."""
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


@cache
def _arrows() -> dict[Module, set[Module]]:
    """The modules that each module imports, anywhere in its file."""
    modules = {_module(path): _imports(path) for path in FILES}
    found: dict[Module, set[Module]] = {}
    for module, names in modules.items():
        inside = [tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "sgcl_cli"]
        known = [next(name[:n] for n in range(len(name), -1, -1) if name[:n] in modules) for name in inside]
        found[module] = {target for target in known if target and target != module}
    return found


def within(package: Module, arrows: Mapping[Module, Iterable[Module]]) -> dict[str, set[str]]:
    """The modules and packages in a package, each with the others that it imports."""
    depth = len(package)
    found: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        if module[:depth] == package and len(module) > depth:
            others = {target[depth] for target in targets if target[:depth] == package and len(target) > depth}
            found.setdefault(module[depth], set()).update(others - {module[depth]})
    return found


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """A cycle of imports, empty if there is none."""
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
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(_module(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def _trees() -> list[tuple[str, ast.Module]]:
    return [(path.relative_to(PACKAGE).as_posix(), _tree(path)) for path in FILES]


def long_tuples(tree: ast.AST) -> list[str]:
    """Functions that return a tuple of more than three."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        function.name
        for function in functions
        for part in ast.walk(function.returns or ast.Constant(None))
        if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "tuple"
        if isinstance(part.slice, ast.Tuple) and len(part.slice.elts) > MOST_RESULTS
    ]


def fields_as_parameters(tree: ast.AST) -> list[str]:
    """Dataclasses and named tuples with ``:param`` instead of ``:ivar`` in the docstring."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and ":param" in (ast.get_docstring(node) or "")
        if "dataclass" in "".join(map(ast.unparse, node.decorator_list)) or "NamedTuple" in map(ast.unparse, node.bases)
    ]


def branches_on_messages(tree: ast.AST) -> list[int]:
    """Lines that compare or parse the text of an error or a warning."""
    apart = {"partition", "rpartition", "split", "startswith", "endswith", "find", "index"}
    found = []
    for node in ast.walk(tree):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in apart:
            sides = [node.func.value]
        found += [side.lineno for side in sides if ast.unparse(side).split(".")[-1] in ("message", "hint")]
    return found


def choices_of(tree: ast.AST) -> list[frozenset[str]]:
    """The choices of every ``Literal`` with several."""
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


def test_docs_name_the_recipes_of_the_settings() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    table = text.partition("## Recipes")[2].partition("\n## ")[0]
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


# Modules loaded by an import: derived from the source here, measured in a new process by the slow test.

FIGURES = {"matplotlib", "jinja2"}
SLIDES = {"openslide", "cv2", "skimage", "tifffile"}
NOT_LOADED = {
    "the command line": ("sgcl_cli.cli.app", {"torch", "h5py", "numpy", "sklearn", "scipy", "PIL", *FIGURES, *SLIDES}),
    "pretraining": ("sgcl_cli.stages.pretrain.run", {"sklearn", "scipy", "pebble", "PIL", *FIGURES, *SLIDES}),
    "embedding": ("sgcl_cli.stages.embed.run", {"sklearn", "scipy", "pebble", "PIL", *FIGURES, *SLIDES}),
    "the study, once prepared": ("benchmarks.study.__main__", {"openslide", "cv2", "skimage"}),
    "tiling": ("sgcl_cli.stages.tile.run", {"torch", "matplotlib"}),
    "the main module of a worker": ("sgcl_cli.__main__", {"typer", "numpy"}),
    "the task of a worker": ("sgcl_cli.stages.tile.claims", {"typer", "torch", *FIGURES}),
}


def _file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def at_import(tree: ast.Module) -> Iterator[str]:
    """Names imported when a module is executed: not those in functions, or for type checking only."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def loaded_by(module: str) -> set[str]:
    """Names that importing a module loads, with their packages; own modules are followed, other libraries are not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        parts = waiting.pop().split(".")
        for name in (".".join(parts[:length]) for length in range(1, len(parts) + 1)):
            if name not in found:
                found.add(name)
                file = _file(name)
                waiting += at_import(_tree(file)) if file else ()
    return found


@pytest.mark.parametrize(("module", "beyond"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_modules_import_only_what_they_need(module: str, beyond: set[str]) -> None:
    loaded = loaded_by(module)
    assert module in loaded and not beyond & loaded


def test_the_check_follows_own_modules_and_skips_functions() -> None:
    code = """
import torch.nn
from numpy import typing
if TYPE_CHECKING:
    import jinja2
try:
    import h5py
except ImportError:
    pass
def late():
    import matplotlib
"""
    assert {*at_import(ast.parse(code))} == {"torch.nn", "numpy.typing", "h5py"}
    assert {"sgcl_cli.stages.tile.slide", "sgcl_cli.artefacts.results", "h5py"} <= loaded_by("sgcl_cli.stages.tile.run")


@pytest.mark.slow
@pytest.mark.parametrize(("module", "beyond"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_a_process_loads_only_what_it_needs(module: str, beyond: set[str]) -> None:
    """Spawned processes import the main module and that of their task, which takes most of the time of a small slide."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module in loaded and not beyond & loaded


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
