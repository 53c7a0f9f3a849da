from __future__ import annotations

from pathlib import Path

from sgcl_cli.artefacts import parts, store
from sgcl_cli.artefacts.parts import Part
from sgcl_cli.artefacts.results import Failure


def part(shard: tuple[int, int] = (1, 1), cohort: str = "c", failed: tuple[str, ...] = (), **further: object) -> Part:
    failures = tuple(Failure(name, f"{name}.svs", "bad", "mend it") for name in failed)
    return Part(cohort=cohort, shard=shard, failures=failures, **further)  # type: ignore[arg-type]


def record(out: Path, *said: Part) -> None:
    store.write_json(out / "run.json", {"format": "sgcl.run/1", "parts": [each.as_record() for each in said]})


def shown(found: list[Part]) -> list[tuple[str, tuple[int, int], list[str]]]:
    return [(each.cohort, each.shard, [failure.slide_id for failure in each.failures]) for each in found]


def test_a_part_survives_its_file(tmp_path):
    first = part((2, 3), failed=("a",), warnings=("w",), seconds=1.5, measured={"id": [2.0, None]})
    parts.announce(tmp_path, first)
    gathered = parts.gather(tmp_path, part((1, 3)), {"z"})
    assert gathered.parts[0] == first
    assert [path.name for path in gathered.files] == [".part-c-2-of-3.json"]
    gathered.clear()
    assert list(tmp_path.iterdir()) == []
    record(tmp_path, first)
    (kept,) = parts.recorded(tmp_path)
    assert (kept.token, kept.failures, kept.measured) == (first.token, first.failures, {})


def test_a_part_replaces_its_own_earlier_self_and_other_divisions(tmp_path):
    record(tmp_path, part(failed=("old",)), part((1, 2)), part((2, 2), failed=("b",)), part(cohort="d", failed=("e",)))
    found = parts.gather(tmp_path, part((1, 2), failed=("a",)), {"a"}).parts
    assert shown(found) == [("c", (2, 2), ["b"]), ("d", (1, 1), ["e"]), ("c", (1, 2), ["a"])]


def test_what_is_announced_is_newer_than_what_is_recorded(tmp_path):
    record(tmp_path, part((2, 2), failed=("b",)))
    parts.announce(tmp_path, part((2, 2)))
    assert shown(parts.gather(tmp_path, part((1, 2)), set()).parts) == [("c", (2, 2), []), ("c", (1, 2), [])]


def test_on_its_own_slides_a_run_alone_has_a_say(tmp_path):
    record(tmp_path, part(cohort="d", failed=("a", "b")))
    assert shown(parts.gather(tmp_path, part(), {"a"}).parts) == [("d", (1, 1), ["b"]), ("c", (1, 1), [])]


def test_what_is_no_part_is_passed_over(tmp_path):
    (tmp_path / ".part-c-1-of-2.json").write_text("{")
    (tmp_path / ".part-c-2-of-2.json").write_text('{"cohort": "c", "shard": 3}')
    store.write_json(tmp_path / "run.json", {"parts": [None, {"cohort": "c"}]})
    mine = part(cohort="d")
    assert parts.gather(tmp_path, mine, set()).parts == [mine]
    (tmp_path / "run.json").write_text("[]")
    assert parts.recorded(tmp_path) == []
