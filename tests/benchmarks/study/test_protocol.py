from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study import protocol
from benchmarks.study.protocol import Job, Row
from sgcl_cli.errors import ConfigError

COMMON = {"epochs": 2, "view": 32}


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
