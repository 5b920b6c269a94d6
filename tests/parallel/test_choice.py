"""The choice between one thread and several, with made-up times."""

from __future__ import annotations

import pytest

from fastbn.parallel.choice import MARGIN, TRIAL_CALLS, TRIAL_SECONDS, TRIAL_SHARE, Choice


def take(choice, seconds_of, calls, work=1.0):
    """Let calls take ``seconds_of[several]`` per unit of work; return which had several threads."""
    taken = []
    for _ in range(calls):
        several = choice.several(work)
        taken.append(several)
        choice.learn(several, work, work * seconds_of[several])
    return taken


NEAR = {False: 1.0, True: 0.2}
FAR = {False: 1.0, True: 2.5}
FIRST = [False] * 2 + [True] * TRIAL_CALLS  # calls of a new choice


def test_both_ways_are_tried_and_the_faster_one_is_kept():
    for seconds, faster in ((NEAR, True), (FAR, False)):
        choice = Choice()
        assert take(choice, seconds, len(FIRST)) == FIRST
        assert take(choice, seconds, 100) == [faster] * 100


def test_the_first_call_may_compile():
    choice = Choice()
    take(choice, {False: 1000.0}, 1)
    assert take(choice, {False: 1.0, True: 2.0}, 50) == [*FIRST[1:], *[False] * 46]


def test_a_trial_lasts_until_a_core_that_was_idle_is_awake():
    """Short calls are tried for longer. The first ones are slow, and the last three count."""
    choice, call = Choice(), 1e-3
    take(choice, {False: 1.0}, 2, call)
    assert take(choice, {True: 2.0}, 9, call) == [True] * 9
    assert 2.0 * 9 * call < TRIAL_SECONDS
    assert take(choice, NEAR, 50, call) == [True] * 50


def test_a_trial_ends_where_several_threads_are_far_slower():
    choice = Choice()
    far = {False: 1.0, True: 4.0}
    assert take(choice, far, 50) == [False] * 2 + [True] * 2 + [False] * 46


def test_the_first_call_of_several_threads_may_compile():
    choice = Choice()
    take(choice, {False: 1.0}, 2)
    take(choice, {True: 1000.0}, 1)
    assert take(choice, NEAR, 50) == [True] * 50


@pytest.mark.parametrize("expected", [0.95, 1.0, 1.9])
def test_several_threads_wait_where_they_are_not_expected_to_be_faster(expected):
    choice = Choice()
    choice.expected = expected
    seconds = {False: 1.0, True: expected}
    taken = take(choice, seconds, 10_000)
    first = taken.index(True)
    assert first * TRIAL_SHARE >= TRIAL_CALLS * expected
    assert sum(taken) * expected <= 1.01 * TRIAL_SHARE * 10_000
    late = take(choice, NEAR, 5000)  # the expectation was wrong
    assert late[-1000:].count(True) > 950


def test_several_threads_have_to_be_faster_by_a_margin():
    for seconds, several in ((1.0 - 0.5 * MARGIN, False), (1.0 - 2.0 * MARGIN, True)):
        choice = Choice()
        take(choice, {False: 1.0, True: seconds}, len(FIRST))
        assert choice.several(1.0) is several


@pytest.mark.parametrize("slow", [1.5, 3.0, 100.0])
@pytest.mark.parametrize("slower", [True, False])
def test_trials_of_the_slower_way_cost_little(slower, slow):
    choice, seconds = Choice(), {slower: slow, not slower: 0.5}
    take(choice, seconds, len(FIRST))
    taken = take(choice, seconds, 60_000)
    trials = taken.count(slower)
    assert trials >= 1
    assert trials * slow <= 1.01 * TRIAL_SHARE * 60_000 * 0.5


def test_trials_that_gain_less_than_the_margin_cost_little():
    choice, little = Choice(), {False: 1.0, True: 1.0 - 0.5 * MARGIN}
    take(choice, little, len(FIRST))
    assert 1 < take(choice, little, 20_000).count(True) < 1.1 * TRIAL_SHARE * 20_000


@pytest.mark.parametrize("slow", range(1, TRIAL_CALLS))
def test_a_few_slow_calls_change_nothing_and_more_in_a_row_do(slow):
    choice = Choice()
    take(choice, NEAR, len(FIRST))
    taken = take(choice, FAR, slow) + take(choice, NEAR, TRIAL_CALLS)
    assert taken == [True] * (slow + TRIAL_CALLS)
    assert take(choice, FAR, TRIAL_CALLS + 1) == [True] * TRIAL_CALLS + [False]


def test_a_way_that_is_fast_again_is_found():
    choice = Choice()
    take(choice, FAR, len(FIRST))
    assert take(choice, FAR, 100) == [False] * 100
    late = take(choice, NEAR, 2000)
    assert late[-1000:].count(True) > 950


def test_work_of_other_sizes_is_compared_by_its_unit():
    choice = Choice()
    for work in (1.0, 1.9) * TRIAL_CALLS:
        take(choice, {False: 1.0, True: 0.8}, 1, work)
    assert choice.several(1.0)
    assert choice.several(1.9)
