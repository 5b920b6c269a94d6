"""Learning-rate schedules."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn
from fastbn.fit.schedules import SCHEDULES, schedule_function


def rates(schedule, total=100, lr=0.5):
    function = schedule_function(schedule, lr, total)
    return np.array([function(step) for step in range(total)])


def test_constant():
    assert (rates(None) == 0.5).all()


def test_cosine_falls_from_lr_to_nearly_zero():
    values = rates("cosine")
    assert values[0] == 0.5
    assert values[50] == pytest.approx(0.25)
    assert (np.diff(values) < 0).all()
    assert 0 < values[-1] < 1e-3


def test_one_cycle_rises_and_falls():
    values = rates("one-cycle")
    assert values[0] == pytest.approx(0.5 / 25)
    assert values.max() == values[29] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.5 / 25 / 1e4)
    assert (np.diff(values[:30]) > 0).all()
    assert (np.diff(values[29:]) < 0).all()


def test_step_divides_by_ten_twice():
    values = rates("step", 8)
    assert values == pytest.approx([0.5] * 4 + [0.05] * 2 + [0.005] * 2)


def test_exponential_falls_evenly_to_one_percent():
    values = rates("exponential")
    assert values[0] == 0.5
    assert values[-1] == pytest.approx(0.005)
    assert np.allclose(values[1:] / values[:-1], values[1] / values[0])


def test_a_callable_gives_the_rate_itself():
    assert rates(lambda step: step / 10, 4) == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_a_callable_that_gives_no_rate_is_refused(bad):
    with pytest.raises(ValueError, match=r"schedule\(step\): "):
        rates(lambda step: bad)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_the_shortest_fits(schedule, total):
    values = rates(schedule, total)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values.max() <= 0.5 * (1 + 1e-12)


@pytest.mark.parametrize("schedule", [None, *SCHEDULES, lambda step: 0.01])
def test_every_schedule_trains(rng, schedule):
    x = rng.standard_normal((200, 4))
    y = (x[:, 0] > 0).astype(int)
    model = fastbn.BatchNormMLP((4, 16, 2), lr=0.02)
    history = model.fit(x, y, epochs=10, batch_size=20, schedule=schedule)
    assert history.accuracy[-1] > 0.9


def test_pytorch_agrees():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for total in (2, 3, 4, 10, 97, 400):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=total)
        expected = []
        for _ in range(total):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(expected) < total:
                one_cycle.step()
        assert np.allclose(rates("one-cycle", total), expected, rtol=1e-9, atol=1e-15)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        expected = []
        for _ in range(total):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            cosine.step()
        assert np.allclose(rates("cosine", total), expected, rtol=1e-9, atol=1e-15)
