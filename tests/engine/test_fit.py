from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from sgcl_cli.engine import fit as module
from sgcl_cli.engine.fit import NotFiniteError, Position, cosine, fit, in_steps
from sgcl_cli.engine.interrupt import StopRequest
from sgcl_cli.errors import TrainingError


class Line:
    """Fit y = 2 x by one weight; three batches an epoch."""

    def __init__(self, *, bad_step: int | None = None, epochs_wanted: int = 10**9) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.seen: list[tuple[int, int]] = []
        self.epochs: list[tuple[str, int]] = []
        self.bad_step, self.epochs_wanted = bad_step, epochs_wanted

    def begin_epoch(self, position: Position) -> None:
        self.epochs.append(("begin", position.epoch))

    def batches(self, epoch: int, start: int) -> Iterator[int]:
        return iter(range(start, 3))

    def loss(self, batch: int, position: Position) -> Tensor:
        loss = (self.model(torch.ones(1, 1)) - 2).square().mean()
        return loss * math.nan if position.step == self.bad_step else loss

    def stepped(self, batch: int, position: Position) -> None:
        self.seen.append((position.epoch, batch))

    def end_epoch(self, position: Position) -> bool:
        self.epochs.append(("end", position.epoch))
        return position.epoch >= self.epochs_wanted


def _optimiser(work: Line) -> torch.optim.SGD:
    return torch.optim.SGD(work.model.parameters(), lr=0.0)


def test_it_learns_and_walks_every_batch() -> None:
    work = Line()
    end = fit(work, _optimiser(work), epochs=30, lr=lambda step: 0.1)
    assert end == Position(30, 0, 90)
    assert float(work.model.weight.detach()) == pytest.approx(2, abs=1e-3)
    assert work.seen[:4] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert work.epochs[:3] == [("begin", 0), ("end", 1), ("begin", 1)]


def test_stopping_and_going_on_is_the_same_as_not_stopping() -> None:
    straight, parts = Line(), Line()
    rate = cosine(0.1, 12)
    fit(straight, _optimiser(straight), epochs=4, lr=rate)
    optimiser, position = _optimiser(parts), Position()
    for _ in range(12):
        position = fit(parts, optimiser, epochs=4, lr=rate, start=position, stop=lambda: True)
    position = fit(parts, optimiser, epochs=4, lr=rate, start=position, stop=lambda: True)
    assert parts.seen == straight.seen
    assert torch.equal(parts.model.weight, straight.model.weight)
    assert position.step == 12


def test_a_loss_that_is_not_finite_leaves_the_parameters_of_the_step_before() -> None:
    work, reference = Line(bad_step=4), Line()
    with pytest.raises(TrainingError, match="the loss is nan at step 4 .epoch 2."):
        fit(work, _optimiser(work), epochs=4, lr=lambda step: 0.1)
    counter = iter(range(4))
    fit(reference, _optimiser(reference), epochs=4, lr=lambda step: 0.1, stop=lambda: next(counter) == 3)
    assert torch.equal(work.model.weight, reference.model.weight)


def test_the_work_can_end_early() -> None:
    work = Line(epochs_wanted=2)
    assert fit(work, _optimiser(work), epochs=10, lr=lambda step: 0.1).epoch == 2


def test_cosine() -> None:
    rate = cosine(0.4, 100)
    assert rate(0) == 0.4 and rate(50) == pytest.approx(0.2) and rate(100) == pytest.approx(0)
    assert rate(25) == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_is_remembered_and_a_second_one_acts(interruptible: None) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signum == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_launcher_repeats_counts_once() -> None:
    with StopRequest(settle=5.0) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signum == signal.SIGINT


def test_the_loss_of_another_process_stops_this_one() -> None:
    work = Line()
    with pytest.raises(NotFiniteError, match="the loss is nan at step 0"):
        fit(work, _optimiser(work), epochs=1, lr=lambda step: 0.1, joint=lambda loss: loss * math.nan)


def test_the_rate_falls_in_steps() -> None:
    rate = in_steps(0.3, [60, 80])
    assert [rate(step) for step in (0, 59)] == [0.3, 0.3]
    assert [rate(step) for step in (60, 79, 80, 99)] == pytest.approx([0.03, 0.03, 0.003, 0.003])


def test_the_loss_of_a_gpu_is_looked_at_a_step_later_and_before_an_epoch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a GPU: whoever asks for a loss is noted."""
    asked: list[int] = []
    sent = iter(range(100))

    def send(loss: Tensor) -> Callable[[], Tensor]:
        number = next(sent)
        return lambda: asked.append(number) or loss  # type: ignore[func-returns-value]

    class Steps(Line):
        def stepped(self, batch: int, position: Position) -> None:
            super().stepped(batch, position)
            known.append([*asked])

        def end_epoch(self, position: Position) -> bool:
            known.append([*asked])
            return super().end_epoch(position)

    known: list[list[int]] = []
    monkeypatch.setattr(module, "to_host", send)
    monkeypatch.setattr(module, "_late", lambda loss: 1)
    work = Steps()
    fit(work, _optimiser(work), epochs=2, lr=lambda step: 0.1)
    assert known[:4] == [[], [0], [0, 1], [0, 1, 2]]
    assert known[4:] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    bad = Steps(bad_step=2)
    with pytest.raises(NotFiniteError, match="the loss is nan at step 2 .epoch 1.") as caught:
        fit(bad, _optimiser(bad), epochs=4, lr=lambda step: 0.1)
    assert caught.value.position == Position(0, 2, 2)
    assert ("end", 1) not in bad.epochs
