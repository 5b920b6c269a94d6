"""How many threads a team gets, with made-up times of calls."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.parallel import cores, team_size, threads
from fastbn.parallel import costs as costs_module
from fastbn.parallel.choice import TRIAL_CALLS
from fastbn.parallel.costs import Costs
from fastbn.parallel.team_size import FLOPS, TeamWork

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")

NEAR = Costs(start=1e-5, barrier=2e-7, byte=5e-11)
FAR = Costs(start=4e-5, barrier=4e-6, byte=2e-9)


@pytest.fixture
def costs(free):
    """Set what threads cost; there are eight cores."""

    def put(found):
        free.setattr(team_size, "measured_costs", lambda: found)

    put(NEAR)
    return put


def work_of(seconds, barriers=8, exchanged=0.0):
    """Return work that takes one thread so many seconds."""
    return TeamWork(seconds * FLOPS, barriers, exchanged)


@pytest.mark.parametrize(
    ("work", "steps", "near", "far"),
    [
        (work_of(1e-2, 10), 10, 8, 8),
        (work_of(2e-3), 1, 8, 6),  # one step: more threads would take longer to start
        (work_of(2e-4), 1, 4, 2),
        (work_of(1e-6, 10), 1000, 1, 1),
        (work_of(3e-5), 1, 1, 1),  # one step does not pay for starting a thread
        (work_of(1e-4), 1000, 8, 3),
        (work_of(1e-4, 40), 1000, 5, 1),
        (work_of(1e-3, 1), 1, 8, 5),
        (work_of(3e-5, 8, 1e5), 1000, 6, 1),  # cores that exchange data slowly
        (work_of(0.0, 1), 1, 1, 1),  # a prediction of no samples
    ],
)
def test_as_many_threads_as_the_work_keeps_busy(costs, work, steps, near, far):
    costs(NEAR)
    assert team_size.team_size(work, steps) == near
    costs(FAR)
    assert team_size.team_size(work, steps) == far


def test_costs_are_not_measured_for_small_calls_and_fixed_threads(costs, free):
    free.setattr(team_size, "measured_costs", lambda: pytest.fail("measured"))
    assert team_size.team_size(work_of(1e-6), 10) == 1
    team = team_size.TrainingTeam(work_of(1e-3))
    assert team.size(10)[0] == 1, "the first call may compile"
    free.setenv("FASTBN_NUM_THREADS", "3")
    assert team_size.team_size(work_of(1.0), 10) == 3
    assert team.size(10) == (3, None)


def test_short_predictions_have_one_thread(costs, free):
    """Waking a worker that was idle takes longer than the measured costs."""

    def threads_of(seconds, is_next):
        return team_size.prediction_threads(seconds * FLOPS, is_next)

    assert [threads_of(seconds, False) for seconds in (0.0, 2e-4, 3e-4, 1e-2)] == [1, 1, 5, 8]
    assert [threads_of(seconds, True) for seconds in (0.0, 4e-5, 2e-4, 1e-2)] == [1, 1, 4, 8]
    free.setenv("FASTBN_NUM_THREADS", "3")
    assert threads_of(1e-2, False) == threads_of(1e-2, True) == 3
    assert threads_of(0.0, False) == threads_of(0.0, True) == 1


def takes(team, seconds_of, calls, steps=1000):
    """Let calls take ``seconds_of[threads]`` per step; return the number of threads of each."""
    sizes = []
    for _ in range(calls):
        size, choice = team.size(steps)
        sizes.append(size)
        if choice is not None:
            choice.learn(size > 1, steps, steps * seconds_of[size])
    return sizes


def test_nets_are_tried_with_one_thread_and_more(costs):
    team = team_size.TrainingTeam(work_of(2e-4))
    near, far = {1: 1e-4, 8: 2e-5}, {1: 1e-4, 8: 2.9e-4}
    assert takes(team, near, 5) == [1, 1, 8, 8, 8]
    assert takes(team, near, 32) == [8] * 32
    assert takes(team, far, 1) + takes(team, near, 3) == [8] * 4  # a burst
    assert takes(team, far, 3) == [8] * 3  # the cores now exchange data slowly
    assert takes(team, far, 100) == [1] * 100
    little = {1: 1e-4, 8: 9.5e-5}
    assert takes(team_size.TrainingTeam(work_of(2e-4)), little, 9) == [1, 1, 8, 8, 8] + [1] * 4
    late = takes(team, near, 5000)  # and fast again: trials continue, and are rare
    assert 4 < late[1000:].count(1) < 4000 / 100


def test_cores_far_apart_are_not_tried_at_once(costs):
    """What threads cost is measured, so even the first fit does not become slower."""
    costs(FAR)
    team = team_size.TrainingTeam(work_of(5e-5))
    assert takes(team, {1: 5e-5, 2: 9e-5}, 100, steps=100) == [1] * 100


def test_calls_of_other_lengths_are_judged_apart(costs):
    """Starting threads may pay off for many steps, but not for few."""
    team = team_size.TrainingTeam(work_of(2e-4))
    few, many = {1: 1e-3, 8: 2e-3}, {1: 1e-3, 8: 2e-4}
    assert takes(team, few, 26, steps=16) == [1] * 2 + [8] * TRIAL_CALLS + [1] * 21
    assert takes(team, many, 26) == [1] * 2 + [8] * 24
    assert takes(team, few, 1, steps=17) == [1]


def test_only_calls_with_a_choice_count_as_trials(costs):
    slow_alone = {1: 5e-3, 8: 2e-3}
    team = team_size.TrainingTeam(work_of(4e-5, 2))
    assert takes(team, slow_alone, 20, steps=1) == [1] * 20  # starting threads would not pay
    assert takes(team, slow_alone, 5) == [1, 1, 8, 8, 8]
    assert takes(team, slow_alone, 20) == [8] * 20


def test_a_call_that_a_handler_has_ended_is_not_learned(costs):
    team, near = team_size.TrainingTeam(work_of(2e-4)), {1: 1e-4, 8: 2e-5}
    takes(team, near, 1)
    assert team.size(1000)[0] == team.size(1000)[0] == 1  # `learn` is not called for the first
    assert takes(team, near, 9) == [1] + [8] * 8


def test_one_thread_does_all_if_no_other_can_be_started(free, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    free.setattr(team_size, "measured_costs", costs_module.measure)
    assert team_size.prediction_threads(1.0 * FLOPS, False) == 1
    for seconds in (2e-4, 1.0):
        team = team_size.TrainingTeam(work_of(seconds))
        assert takes(team, {1: seconds}, 50) == [1] * 50


def test_sizes_follow_costs_that_are_measured_again(costs):
    team = team_size.TrainingTeam(work_of(1e-2))
    costs(FAR._replace(start=4e-3))
    assert team.size(1) == (2, None)
    costs(NEAR)
    assert team.size(1) == (8, None)


def test_calls_that_are_limited_to_one_thread_count_for_nothing(costs):
    team, near = team_size.TrainingTeam(work_of(2e-4)), {1: 1e-4, 8: 2e-5}
    assert takes(team, near, 10) == [1] * 2 + [8] * 8
    with cores.at_most(1):
        assert takes(team, {1: 1e-6}, 50) == [1] * 50
    assert takes(team, near, 20) == [8] * 20


def test_large_and_tiny_nets_and_fixed_threads_are_never_tried(costs, free):
    slow = {1: 1.0, 3: 2.0, 8: 2.0}
    assert takes(team_size.TrainingTeam(work_of(1e-2)), slow, 40) == [8] * 40  # a large network
    tiny = team_size.TrainingTeam(work_of(1e-6))
    assert takes(tiny, slow, 40, steps=10) == [1] * 40
    team = team_size.TrainingTeam(work_of(2e-4))
    free.setenv("FASTBN_NUM_THREADS", "3")
    assert takes(team, slow, 40) == [3] * 40


def test_minibatches_of_about_one_size_share_their_trials(rng):
    model = fastbn.BatchNormMLP((3, 4, 2))
    for rows in (65, 100, 127, 128):
        model.train_step(rng.standard_normal((rows, 3)), np.arange(rows) % 2)
    assert len(model._engine._teams) == 2
