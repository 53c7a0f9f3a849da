"""Two processes, each with half of the batch, against one with all of it."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.engine.ranks import (
    Ranks,
    joined,
    joint_commit,
    joint_means,
    joint_refit,
    joint_terms,
    joint_total,
    sole_writer,
    synchronised,
)
from sgcl_cli.engine.runtime import start
from sgcl_cli.errors import ArtefactError, ConfigError, TrainingError
from sgcl_cli.method.objective import Embedded, Losses, Term
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.sgcl import SGCL

N, BATCH, DIM, HIDDEN, STEPS = 240, 8, 16, 24, 4


def _objective() -> SGCL:
    place = torch.arange(N)
    slide = place // 60
    cell = torch.stack([place % 60 % 8, place % 60 // 8], 1).double()
    cell[slide == 3] *= 50  # a slide without neighbours: the count of anchors with positives differs between ranks
    counts = {"negatives": 64, "clusters": 6, "clusterings": 2, "uniform_negatives": 100, "neighbours": 20}
    settings, _ = resolve(ObjectiveOptions(negative_law="beta", **counts), N, 10, BATCH)
    return SGCL(settings, slide, cell, dim=DIM, hidden_dim=HIDDEN, seed=0, device="cpu")


def _batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    index = torch.randperm(N, generator=draw)[:BATCH]
    v, h = (normalize(torch.randn(BATCH, size, generator=draw)) for size in (DIM, HIDDEN))
    return index, v, h, normalize(torch.randn(4, BATCH, DIM, generator=draw), dim=2)


def _walk(ranks: Ranks) -> dict[str, Tensor]:
    objective = _objective()
    mine = slice(ranks.rank * BATCH // ranks.count, (ranks.rank + 1) * BATCH // ranks.count)
    totals, gradients = [], []
    for step in range(STEPS):
        if step == 2:
            joint_refit(objective, ranks, epoch=1)
        index, v, h, corners = _batch(step)
        v = v[mine].clone().requires_grad_()
        part = corners[:, mine].clone().requires_grad_()
        losses = objective.losses(index[mine], Embedded(v, h[mine], part), epoch=5.0, step=step)
        total = joint_total(losses, ranks)
        total.backward()
        totals.append(ranks.sum(total.detach()) / ranks.count)
        gradients.append(ranks.gather(v.grad) / ranks.count)
        joint_commit(objective, ranks, index[mine], Embedded(v, h[mine], part))
    labels = objective.clusters.labels
    return {
        "totals": torch.stack(totals),
        "gradients": torch.stack(gradients),
        "bank_v": objective.bank_v,
        "bank_h": objective.bank_h,
        "corner": objective.bank_corners[2],
        "labels": labels,
    }


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    ranks = Ranks.current()
    torch.save(_walk(ranks), f"{folder}/{rank}.pt")
    if rank == 1:  # labels that were tampered with are noticed
        adopt = SGCL.adopt
        SGCL.adopt = lambda self, labels: adopt(self, (labels + 1) % 6)
    with pytest.raises(TrainingError, match="cluster labels differ between ranks"):
        joint_refit(_objective(), ranks, epoch=1)
    dist.destroy_process_group()


def test_two_ranks_are_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    alone = _walk(Ranks.current())
    both = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found["labels"], alone["labels"])
        for name in ("bank_v", "bank_h", "corner"):
            assert torch.equal(found[name], alone[name]), name
        torch.testing.assert_close(found["totals"], alone["totals"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found["gradients"], alone["gradients"], rtol=1e-5, atol=1e-7)


def test_alone_everything_is_itself() -> None:
    ranks, x = Ranks(), torch.ones(3)
    assert ranks.gather(x) is x and ranks.broadcast(x) is x and ranks.sum(x) is x


def test_a_batch_is_shared_equally_or_refused() -> None:
    whole = list(range(12))
    assert [whole[Ranks(rank, 3).share(12)] for rank in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(ConfigError, match="--batch 7 is the batch of all processes .*use --batch 6"):
        Ranks(0, 2).share(7)


def test_batch_norm_over_ranks_needs_cuda() -> None:
    with pytest.raises(ConfigError, match="--sync-bn works on CUDA only"):
        synchronised(torch.nn.BatchNorm2d(3), Ranks(0, 2), start("cpu", "fp32", None))


def test_terms_of_the_whole_batch_are_means_over_ranks() -> None:
    index, v, h, corners = _batch(0)
    losses = _objective().losses(index, Embedded(v, h, corners), epoch=5.0, step=0)
    terms = joint_terms(losses, Ranks())
    assert float(terms["total"]) == pytest.approx(float(losses.total)) and terms["spatial"] > 0
    assert [*terms] == ["total", "self", "spatial", "inner"]
    assert joint_means(torch.tensor([2.0, float("nan")]), Ranks())[0] == 2.0


def test_terms_are_those_that_the_losses_name() -> None:
    alone = Losses(torch.tensor(3.0), {"one": Term(torch.tensor(3.0))})
    assert {name: float(term) for name, term in joint_terms(alone, Ranks()).items()} == {"total": 3.0, "one": 3.0}
    counted = {"b": Term(torch.tensor(6.0), torch.tensor(4.0), 2.0), "a": Term(torch.tensor(5.0))}
    terms = joint_terms(Losses(torch.tensor(5.0), counted), Ranks())
    assert {name: float(term) for name, term in terms.items()} == {"total": 8.0, "b": 1.5, "a": 5.0}
    assert [*terms] == ["total", "b", "a"]


def test_what_only_a_process_alone_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks()
    with pytest.raises(ValueError, match="mine"), ranks.together():
        raise ValueError("mine")
    assert (ranks.of_first("a"), ranks.all_of("a"), ranks.largest(3)) == ("a", ["a"], 3)
    assert ranks.mean(torch.tensor(2.5)).item() == 2.5
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu") as alone:
        assert alone == ranks and alone.own_device is None


def test_an_output_has_one_writer_except_in_a_dry_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with sole_writer(out):
        with pytest.raises(ArtefactError, match="another run writes to"), sole_writer(out):
            pytest.fail("two writers")
        with sole_writer(out, dry_run=True):
            assert (out / ".writer.lock").exists()
    with sole_writer(out, dry_run=True):
        assert not out.exists()


if __name__ == "__main__":
    _worker(int(sys.argv[1]), sys.argv[2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": None}, "RANK is not set"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is x"),
        ({"MASTER_PORT": "-1"}, "PORT is -1"),
    ],
)
def test_incomplete_variables_of_a_launcher_are_refused(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], message: str
) -> None:
    complete = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29600"}
    for name, value in (complete | changed).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message), joined("cpu"):
        pytest.fail("joined")
