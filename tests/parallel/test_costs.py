"""What threads cost: measured once, from threads that exchange data."""

from __future__ import annotations

import time

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


def test_costs_are_measured_once_and_follow_from_the_times_of_calls(monkeypatch):
    seconds = {(0, 0): 3e-5, (0, costs.ROUNDS): 3e-5 + costs.ROUNDS * 4e-7}
    seconds[costs.BYTES // 8, costs.ROUNDS] = seconds[0, costs.ROUNDS] + costs.ROUNDS * 1e-6
    calls = []

    def call_seconds(size, rounds):
        calls.append((size, rounds))
        return seconds.get((size, rounds), 1.0)

    monkeypatch.setattr(costs, "call_seconds", call_seconds)
    costs.measured_costs.cache_clear()
    try:
        found = costs.measured_costs()
        taken = len(calls)
        assert costs.measured_costs() is found
        assert len(calls) == taken
    finally:
        costs.measured_costs.cache_clear()
    assert found == pytest.approx((3e-5, 2e-7, 1e-6 / costs.BYTES))


def test_a_slow_clock_gives_no_negative_costs(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    costs.measured_costs.cache_clear()
    try:
        assert costs.measured_costs() == (0.0, 0.0, 0.0)
    finally:
        costs.measured_costs.cache_clear()
