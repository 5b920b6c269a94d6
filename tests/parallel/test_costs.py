"""What threads cost: measured once, from threads that exchange data."""

from __future__ import annotations

import numpy as np
import pytest
from cases import JIT_DISABLED

from fastbn.parallel import costs
from fastbn.parallel.threads import run_team

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_each_thread_reads_what_the_other_one_has_just_written(size):
    data = np.zeros((2, 8 + size), np.int64)
    run_team(costs.exchange, 2, lambda member: (data, 6, member))
    assert (data[:, :-1] == 5).all()
    assert (data[:, -1] == 5 * (7 + size)).all()


@pytest.fixture
def unmeasured(monkeypatch):
    """Forget what has been measured in this process, for a test; return its clock."""
    now = [100.0]
    monkeypatch.setattr(costs, "_expiry", 0.0)
    monkeypatch.setattr(costs, "_measured", costs.MOST)
    monkeypatch.setattr(costs.time, "monotonic", lambda: now[0])
    return now


def times(monkeypatch, start, barrier, byte):
    """Let calls of two threads take as long as these costs say; return the list of calls."""
    calls = []

    def call_seconds(size, rounds):
        calls.append((size, rounds))
        return start + rounds * (2 * barrier + 8 * size * byte)

    monkeypatch.setattr(costs, "call_seconds", call_seconds)
    return calls


def test_costs_follow_from_the_times_of_calls_and_are_measured_once(monkeypatch, unmeasured):
    calls = times(monkeypatch, 3e-5, 2e-7, 1e-10)
    found = costs.measured_costs()
    taken = len(calls)
    unmeasured[0] += 1e6
    assert costs.measured_costs() is found
    assert len(calls) == taken
    assert found == pytest.approx((3e-5, 2e-7, 1e-10))


def test_what_other_programs_have_disturbed_is_limited_and_measured_again(monkeypatch, unmeasured):
    times(monkeypatch, 3e-5, 1e-3, 1e-10)
    assert costs.measured_costs() == pytest.approx((3e-5, costs.MOST.barrier, 1e-10))
    times(monkeypatch, 3e-5, 2e-7, 1e-10)
    assert costs.measured_costs().barrier == costs.MOST.barrier
    unmeasured[0] += 1.01 * costs.RETRY_SECONDS
    assert costs.measured_costs() == pytest.approx((3e-5, 2e-7, 1e-10))


def test_slow_calls_are_few(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    assert costs.call_seconds(0, 0) == 1
    assert next(clock) == 2


def test_a_slow_clock_gives_no_negative_costs(monkeypatch, unmeasured):
    monkeypatch.setattr(costs.time, "perf_counter", lambda: 0.0)
    assert costs.measured_costs() == (0.0, 0.0, 0.0)
