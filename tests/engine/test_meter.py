from __future__ import annotations

import time

import pytest
import torch

from sgcl_cli.engine.meter import Meter


def test_steps_are_read_together_in_order_and_once() -> None:
    meter = Meter(every=3)
    for step in range(3):
        assert not meter.due
        meter.add({"step": step}, {"loss": torch.tensor(0.5 * step), "share": torch.tensor(float("nan"))})
    assert meter.due
    steps = meter.read()
    assert [known["step"] for known, _ in steps] == [0, 1, 2]
    assert [measured["loss"] for _, measured in steps] == [0, 0.5, 1]
    assert all(measured["share"] is None for _, measured in steps)
    assert meter.read() == [] and not meter.due


def test_numbers_of_another_dtype_and_with_gradient() -> None:
    meter = Meter(every=1)
    value = torch.tensor(2.0, requires_grad=True) * 3
    meter.add({}, {"a": value, "b": torch.tensor(4, dtype=torch.int64)})
    assert meter.read()[0][1]["a"] == 6 and value.requires_grad
    with pytest.raises(AssertionError, match="the same"):
        meter.add({}, {"b": torch.tensor(1.0)})


def test_time_is_that_between_two_readings_and_can_begin_anew() -> None:
    meter = Meter(every=2)
    time.sleep(0.05)
    meter.restart()
    for _ in range(2):
        time.sleep(0.02)
        meter.add({}, {"loss": torch.tensor(0.0)})
    first, second = (measured["seconds"] for _, measured in meter.read())
    assert first == second >= 0.02
    time.sleep(0.1)
    meter.add({}, {"loss": torch.tensor(0.0)})
    assert meter.read()[0][1]["seconds"] >= 0.1


def test_what_is_not_waited_for_comes_with_the_next_reading() -> None:
    meter = Meter(2)
    for step in range(4):
        meter.add({"step": step}, {"a": torch.tensor(float(step))})
        if step == 1:
            assert meter.due and meter.read(wait=False) == []
    first = meter.read(wait=False)
    assert [(known["step"], measured["a"]) for known, measured in first] == [(0, 0.0), (1, 1.0)]
    assert [known["step"] for known, _ in meter.read()] == [2, 3]
    assert meter.read() == []
