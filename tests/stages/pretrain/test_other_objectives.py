"""Objectives that are not part of the package train, log, resume and export: a row in a table is all that they need."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import load_checkpoint, load_encoder
from sgcl_cli.config import ObjectiveOptions, PretrainConfig, option
from sgcl_cli.engine.fit import Position
from sgcl_cli.errors import ConfigError, Interrupted
from sgcl_cli.method.bases import BASES, Base, Slopes
from sgcl_cli.method.objective import Embedded, Losses, Objective, Term, WantedViews
from sgcl_cli.method.objectives import OBJECTIVES
from sgcl_cli.method.resolve import resolve
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain.training import Pretraining

BATCH = 8


def nt_xent(v_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (Chen, Kornblith, Norouzi, Hinton, ICML 2020): each view against all others of the batch."""
    rows = torch.cat([v_BD, second_BD])
    logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    return cross_entropy(logits, torch.arange(len(rows)).roll(len(v_BD)))


class Pairs(Objective):
    """NT-Xent, and a term that keeps v away from the mean that it remembers, over the anchors on that side of it."""

    candidates = {"nt_xent": 2 * BATCH - 1}
    remembers = True

    def __init__(self, settings: Settings, slide: Tensor, cell: Tensor, **how: Any) -> None:
        super().__init__(settings, slide, cell, **how)
        self.mean = torch.zeros(how["dim"])

    @classmethod
    def wanted_views(cls, settings: Settings) -> WantedViews:
        return WantedViews(second=True)

    def losses(
        self, index_B: Tensor, query: Embedded, key: Embedded | None = None, *, epoch: float, step: int
    ) -> Losses:
        assert query.second is not None and query.corners is None and key is None
        loss = nt_xent(query.v, query.second, self.settings.temperature)
        near = (query.v @ self.mean).clamp_min(0)
        return Losses(
            loss,
            {"nt_xent": Term(loss.detach()), "centred": Term(near.sum(), near.detach().sign().sum(), 0.5)},
            lambda: {"view_similarity": (query.v.detach() * query.second.detach()).sum(1)},
        )

    def commit(self, index_B: Tensor, new: Embedded, *, momentum: float | None = None) -> None:
        self.mean.lerp_(new.v.mean(0), 0.1 if momentum is None else momentum)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean.copy_(state["mean"])


class PairsBase(Base):
    """L_self as NT-Xent, under SGCL's other terms."""

    second = True
    candidates = 2 * BATCH - 1

    def __init__(self, settings: Settings, *, dim: int, seed: int, device: torch.device) -> None:
        self.settings = settings

    def loss(
        self, index_B: Tensor, query: Embedded, key: Embedded | None, draws: Any, bank_ND: Tensor | None
    ) -> tuple[Tensor, Slopes]:
        assert query.second is not None and key is None
        with torch.enable_grad():
            views = [part.detach().requires_grad_() for part in (query.v, query.second)]
            loss = nt_xent(*views, self.settings.temperature)
            slopes = torch.autograd.grad(self.settings.weight_self * loss, views)
        return loss.detach(), [*zip((query.v, query.second), slopes, strict=True)]

    def commit(self, index_B: Tensor, new: Embedded) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Config(PretrainConfig):
    """What adding a name to the choices does."""

    base: Literal["npid", "moco", "pairs"] = option("pairs", "Base.", panel="Objective")


class Small(nn.Module):
    embedding_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 5, 3, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn1(self.conv1(x))).mean((2, 3))


@pytest.fixture
def config(make_patches: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setitem(ENCODERS, "resnet18", Small)
    monkeypatch.setitem(OBJECTIVES, "pairs", Pairs)
    return Config(
        patches=str(make_patches()), out=str(tmp_path / "run"), epochs=3, batch=BATCH, threads=1, device="cpu"
    )


def _lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def test_log_checkpoint_and_encoder_follow_from_the_objective(config: Config) -> None:
    outcome = pretrain(config)
    out = Path(config.out)
    steps = [line for line in _lines(config.out) if "loss" in line]
    assert len(steps) == 9 and len(_lines(config.out)) == 9 + 3
    for step in steps:
        loss = step["loss"]
        assert [*loss] == ["total", "nt_xent", "centred"]
        assert loss["total"] == pytest.approx(loss["nt_xent"] + 0.5 * loss["centred"])
        assert -1 <= step["view_similarity"] <= 1
        assert not {"ramp", "spatial_positives", "effective_rank_v"} & step.keys()
    assert any(step["loss"]["centred"] > 0 for step in steps)
    assert [*outcome.data["last_epoch"]["loss"]] == ["total", "nt_xent", "centred"]
    assert load_checkpoint(out / "last.pt")["objective"].keys() == {"mean"}
    assert load_encoder(out)[0].epochs == 3
    result = store.read_json(out / "run.json")["result"]
    assert result["objective"]["base"] == "pairs" and result["last_epoch"] == outcome.data["last_epoch"]


@pytest.mark.slow
def test_its_curves_are_drawn_and_there_is_nothing_to_draw_of_neighbours(config: Config, pictures: None) -> None:
    pretrain(config)
    assert {path.name for path in Path(config.out).glob("*.png")} == {"curves.png", "views.png"}


def test_its_gradient_teaches_the_encoder(config: Config) -> None:
    last = {}
    for lr in (0.2, 1e-9):
        run = replace(config, epochs=12, lr=lr, out=f"{config.out}-{lr}", bank_start="random")
        pretrain(run)
        last[lr] = [line["loss"]["nt_xent"] for line in _lines(run.out) if "loss" in line][-9:]
    assert sum(last[0.2]) / 9 < sum(last[1e-9]) / 9 - 0.1


def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(config)
    broken, stepped = replace(config, out=str(tmp_path / "broken")), Pretraining.stepped

    def interrupted(self: Pretraining, batch: object, position: Position) -> None:
        stepped(self, batch, position)  # type: ignore[arg-type]
        if position.step in (2, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Pretraining, "stepped", interrupted)
    for _ in range(2):
        with pytest.raises(Interrupted):
            pretrain(broken)
    pretrain(broken)
    whole, parts = load_encoder(config.out)[1], load_encoder(broken.out)[1]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [[line.get("loss") for line in _lines(out)] for out in (config.out, broken.out)]
    assert losses[0] == losses[1]


def test_a_dry_run_measures_it(config: Config) -> None:
    data = pretrain(replace(config, dry_run=True)).data
    assert data["seconds_of"]["clusters"] == 0 and min(data["seconds_of"][name] for name in ("views", "objective")) > 0


def test_a_further_base_carries_the_other_terms(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "pairs", PairsBase)
    monkeypatch.setitem(OBJECTIVES, "pairs", SGCL)
    pretrain(replace(config, negatives=16, ramp_epochs=0.0))
    steps = [line for line in _lines(config.out) if "loss" in line]
    assert [*steps[0]["loss"]] == ["total", "self", "spatial", "inner"] and min(steps[-1]["loss"].values()) > 0
    assert load_checkpoint(Path(config.out) / "last.pt")["objective"]["bank_v"].shape == (31, 128)


def test_the_slopes_of_a_base_reach_what_it_was_computed_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASES, "npid", PairsBase)
    options = ObjectiveOptions(weight_self=0.3, weight_spatial=0.0, weight_inner=0.0)
    place = torch.arange(40)
    cell = torch.stack([place % 8, place // 8], 1).double()
    objective = SGCL(resolve(options, 40, 5, BATCH)[0], place * 0, cell, dim=6, hidden_dim=6, seed=0, device="cpu")
    rows = torch.nn.functional.normalize(torch.randn(2, BATCH, 6, generator=torch.Generator().manual_seed(0)), dim=2)
    v, second = (part.clone().requires_grad_() for part in rows)
    objective.losses(place[:BATCH], Embedded(v, v.detach(), None, second), epoch=0.0, step=0).total.backward()
    plain = rows.clone().requires_grad_()
    (0.3 * nt_xent(plain[0], plain[1], options.temperature)).backward()
    torch.testing.assert_close(torch.stack([v.grad, second.grad]), plain.grad)
    assert objective.bank_v is None


def test_a_name_without_a_row_is_no_choice() -> None:
    with pytest.raises(ConfigError, match="--base is 'pairs'.*npid, moco"):
        PretrainConfig(patches="p", out="o", base="pairs")  # type: ignore[arg-type]
