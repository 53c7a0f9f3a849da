"""Statements of CONTRIBUTING.md: files that it names exist, tests mirror the package, subjects of commits are short."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sgcl_cli"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
PLACE = re.compile(r"[\w./]*/|[\w./]+\.(?:py|md|toml)(?:: (?P<names>\w+))?")
RULE_SINCE = ("e2f97b7", "599d07a")  # commits up to these were not checked

# Modules without a test file, by reason.
NOT_MIRRORED = {
    "declares only types or constants": (
        "config/choices.py",
        "method/bases/base.py",
        "method/objective.py",
        "probe/mil/model.py",
        "progress.py",
        "report/colour_scale.py",
        "slide/open/backends/base.py",
    ),
    "the entry point, which tests start as a process": ("__main__.py",),
    "settings, tested together in tests/test_config.py": (
        "config/base.py",
        "config/embed.py",
        "config/encoders.py",
        "config/evaluate.py",
        "config/objective.py",
        "config/predict.py",
        "config/pretrain.py",
        "config/tile.py",
        "config/views.py",
    ),
    "errors, tested by exit code and message in tests/cli/test_app.py": ("errors.py",),
}


def places() -> list[tuple[str, str | None]]:
    """Files and folders named on the page, each with the name in it, if any; paths with the placeholder NAME are skipped."""
    found = [(text.partition(":")[0], match["names"]) for text in NAMED if (match := PLACE.fullmatch(text))]
    return [(path, name) for path, name in found if "NAME" not in path]


def existing(path: str) -> Path | None:
    return next((base / path for base in (PACKAGE, ROOT) if (base / path).exists()), None)


@pytest.mark.parametrize(("path", "name"), places())
def test_what_the_page_names_exists(path: str, name: str | None) -> None:
    found = existing(path)
    assert found is not None and found.is_dir() == path.endswith("/")
    if name is not None:
        assert name in top_level(found), f"{path} has no {name}"


def top_level(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target] if _annotated(node) else []:
            found |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return found


def _annotated(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign)


def test_the_map_has_every_package() -> None:
    rows = re.findall(r"^\| `([\w/]+/)` \| [^|]{10,} \|$", TEXT, re.MULTILINE)
    packages = {path.parent.relative_to(PACKAGE).as_posix() + "/" for path in PACKAGE.rglob("__init__.py")} - {"./"}
    assert sorted(rows) == sorted(packages)


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return sorted(path.as_posix() for path in paths)


def mirror(module: str) -> Path:
    path = Path(module)
    return ROOT / "tests" / path.parent / f"test_{path.name}"


def test_tests_mirror_the_package() -> None:
    excused = {module for some in NOT_MIRRORED.values() for module in some}
    bare = {module for module in modules() if not mirror(module).exists()}
    assert bare - excused == set()


def test_the_table_of_excuses_names_modules_without_tests() -> None:
    excused = [module for some in NOT_MIRRORED.values() for module in some]
    assert [module for module in excused if not (PACKAGE / module).exists() or mirror(module).exists()] == []


def test_no_test_file_is_longer_than_400_lines() -> None:
    long = {path.name for path in (ROOT / "tests").rglob("*.py") if path.read_text(encoding="utf-8").count("\n") > 400}
    assert long == set()


def test_subjects_of_commits_are_short() -> None:
    command = ["git", "log", "--no-merges", "--format=%s", "HEAD", "--not", *RULE_SINCE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("no history of commits here")
    assert [subject for subject in done.stdout.splitlines() if len(subject) > 72] == []
