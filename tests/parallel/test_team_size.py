"""How many threads a team gets, with made-up times of calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.parallel import team_size
from fastbn.parallel.choice import CALLS

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")


@pytest.mark.parametrize(
    ("flops", "barriers", "steps", "expected"),
    [
        (1e9, 10, 10, 8),  # ten steps of ten milliseconds
        (2.5e8, 10, 1, 5),  # one step: more threads would take longer to start
        (1e8, 10, 1, 3),
        (1e5, 10, 1000, 1),  # a microsecond
        (1e6, 10, 1, 1),  # ten microseconds, but one step does not pay for starting threads
        (1e7, 8, 1000, 5),  # five threads have enough flops between two barriers
        (1e7, 40, 1000, 1),
        (2.5e8, 1, 1, 5),
        (0.0, 1, 1, 1),  # a prediction of no samples
    ],
)
def test_as_many_threads_as_the_work_keeps_busy(free, flops, barriers, steps, expected):
    assert team_size.team_size(flops, barriers, steps) == expected


def test_more_threads_are_taken_only_where_their_start_pays(free):
    for flops in np.geomspace(1e3, 1e10, 30):
        for steps in (1, 10, 1000):
            size, total = team_size.team_size(flops, 10, steps), flops * steps
            cost = [math.inf] + [total / n + (n - 1) * team_size.START_FLOPS for n in range(1, 9)]
            assert cost[size] <= cost[1]


def takes(team, seconds_of, calls, steps=1000):
    """Let calls take ``seconds_of[threads]`` per step; return the number of threads of each."""
    sizes = []
    for _ in range(calls):
        sizes.append(team.size(steps))
        team.learn(sizes[-1], steps, steps * seconds_of[sizes[-1]])
    return sizes


def test_small_nets_are_tried_with_one_thread_and_more(free):
    team = team_size.TrainingTeam(2e7, 8)
    near, far = {1: 1e-4, 8: 2e-5}, {1: 1e-4, 8: 3e-4}
    assert takes(team, near, 6) == [8, 1] * 3
    assert takes(team, near, 32) == [8] * 32
    assert takes(team, far, 1) + takes(team, near, 3) == [8] * 4  # a burst
    assert takes(team, far, 3) == [8] * 3  # the cores now exchange data slowly
    assert takes(team, far, 100) == [1] * 100
    little = {1: 1e-4, 8: 9.5e-5}
    assert takes(team_size.TrainingTeam(2e7, 8), little, 10) == [8, 1] * 3 + [1] * 4
    late = takes(team, near, 5000)  # and fast again: trials continue, and are rare
    assert 4 < late[1000:].count(1) < 4000 / 100


def test_calls_of_other_lengths_are_judged_apart(free):
    """Starting threads may pay off for many steps, but not for few."""
    team = team_size.TrainingTeam(2e7, 8)
    few, many = {1: 1e-4, 5: 2e-4}, {1: 1e-4, 8: 2e-5}
    assert takes(team, few, 26, steps=16) == [5, 1] * CALLS + [1] * 20
    assert takes(team, many, 26) == [8, 1] * CALLS + [8] * 20
    assert takes(team, few, 1, steps=17) == [1]


def test_only_calls_with_a_choice_count_as_trials(free):
    slow_alone = {1: 5e-3, 8: 2e-3}
    team = team_size.TrainingTeam(2e7, 8)
    assert takes(team, slow_alone, 20, steps=1) == [1] * 20  # starting threads would not pay
    assert takes(team, slow_alone, 6) == [8, 1] * 3
    assert takes(team, slow_alone, 20) == [8] * 20


def test_a_call_that_a_handler_has_ended_is_not_learned(free):
    team, near = team_size.TrainingTeam(2e7, 8), {1: 1e-4, 8: 2e-5}
    takes(team, near, 5)
    assert team.size(1000) == team.size(1000) == 1  # `learn` is not called for the first
    assert takes(team, near, 9) == [1] + [8] * 8


def test_large_and_tiny_nets_and_fixed_threads_are_never_tried(free):
    slow = {1: 1.0, 3: 2.0, 8: 2.0}
    assert takes(team_size.TrainingTeam(1e9, 8), slow, 40) == [8] * 40  # a large network
    assert takes(team_size.TrainingTeam(1e4, 8), slow, 40) == [1] * 40  # a tiny network
    team = team_size.TrainingTeam(2e7, 8)
    free.setenv("FASTBN_NUM_THREADS", "3")
    assert takes(team, slow, 40) == [3] * 40


def test_minibatches_of_about_one_size_share_their_trials(rng):
    model = fastbn.BatchNormMLP((3, 4, 2))
    for rows in (65, 100, 127, 128):
        model.train_step(rng.standard_normal((rows, 3)), np.arange(rows) % 2)
    assert len(model._engine._teams) == 2
