"""Parallel regions: when they are used, one at a time, and not in a forked child."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import pytest

import fastbn
from fastbn.parallel import dispatch


def paths_taken(monkeypatch, n_elements, calls):
    """Return what that many calls in a row run."""
    monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", 100)
    ways = (lambda: "serial", lambda: "parallel")
    return [dispatch.dispatch(*ways, n_elements) for _ in range(calls)]


def test_small_work_is_serial(monkeypatch):
    monkeypatch.setattr(dispatch.numba, "get_num_threads", lambda: 2)
    assert paths_taken(monkeypatch, 99, 9) == ["serial"] * 9
    assert paths_taken(monkeypatch, 100, 3) == ["serial", "serial", "parallel"]


def test_one_thread_is_serial(monkeypatch):
    monkeypatch.setattr(dispatch.numba, "get_num_threads", lambda: 1)
    assert paths_taken(monkeypatch, 100, 9) == ["serial"] * 9


class Clock:
    """A clock that only advances while work is done."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(dispatch.numba, "get_num_threads", lambda: 2)
        monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", 100)
        monkeypatch.setattr(dispatch, "_choices", {})
        monkeypatch.setattr(dispatch.time, "perf_counter", lambda: self.now)
        self.seconds = {"serial": 1.0, "parallel": 0.5}
        self.taken = []
        self.ways = (lambda: self.work("serial"), lambda: self.work("parallel"))

    def work(self, way):
        self.now += self.seconds[way]
        self.taken.append(way)

    def run(self, calls):
        self.taken.clear()
        for _ in range(calls):
            dispatch.dispatch(*self.ways, 1000)
        return self.taken.count("serial")


def test_the_faster_way_is_taken(monkeypatch):
    clock = Clock(monkeypatch)
    clock.seconds["parallel"] = 50.0  # the first call compiles
    assert clock.run(3) == 2
    clock.seconds["parallel"] = 0.5
    assert clock.run(40) == 0


def test_a_pool_that_spins_on_the_cores_is_noticed_and_so_is_its_end(monkeypatch):
    clock = Clock(monkeypatch)
    clock.run(50)
    clock.seconds["parallel"] = 100.0
    assert clock.run(1000) >= 995, "a region that waits for a core is not entered again and again"
    clock.seconds["parallel"] = 0.5
    clock.run(4 * 2000)
    assert clock.run(100) < 10


def test_a_trial_of_the_slower_way_costs_little(monkeypatch):
    clock = Clock(monkeypatch)
    clock.seconds["parallel"] = 30.0
    clock.run(10)
    before = clock.now
    serial = clock.run(20_000)
    trials = 20_000 - serial
    assert trials > 10
    assert clock.now - before < 1.06 * 20_000


def test_a_second_thread_does_not_enter_a_parallel_region(monkeypatch):
    monkeypatch.setattr(dispatch.numba, "get_num_threads", lambda: 2)
    inside, leave = threading.Event(), threading.Event()

    def parallel():
        inside.set()
        leave.wait(10)
        return "parallel"

    monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", 0)
    first = []
    thread = threading.Thread(target=lambda: first.append(dispatch.dispatch(None, parallel, 1)))
    thread.start()
    assert inside.wait(10)
    assert dispatch.dispatch(lambda: "serial", None, 1) == "serial"
    leave.set()
    thread.join()
    assert first == ["parallel"]
    assert dispatch.dispatch(None, lambda: "parallel", 1) == "parallel"


def test_a_failing_parallel_region_is_left(monkeypatch):
    monkeypatch.setattr(dispatch.numba, "get_num_threads", lambda: 2)
    monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", 0)
    with pytest.raises(ZeroDivisionError):
        dispatch.dispatch(None, lambda: 1 / 0, 1)
    assert dispatch.dispatch(None, lambda: "parallel", 1) == "parallel"


def test_eight_threads_at_once(rng):
    x = rng.standard_normal((700, 300)).astype(np.float32)
    expected = fastbn.batch_norm(x)[0]
    results = [None] * 8

    def work(position):
        for _ in range(20):
            results[position] = fastbn.batch_norm(x)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


def in_a_child(x):
    return fastbn.batch_norm(x)[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_after_the_parent_has(rng, monkeypatch):
    """GNU OpenMP would end a child that enters a parallel region after a fork."""
    monkeypatch.setattr(
        dispatch, "PARALLEL_ELEMENTS", 0
    )  # always several threads, if there may be several
    x = rng.standard_normal((700, 300)).astype(np.float32)
    expected = fastbn.batch_norm(x)[0]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(in_a_child, (x,)).get(timeout=60)
    assert np.array_equal(result, expected)
