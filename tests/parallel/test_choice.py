"""The choice between one thread and several, with made-up times."""

from __future__ import annotations

import pytest

from fastbn.parallel.choice import CALLS, MARGIN, TRIAL_SHARE, Choice


def take(choice, seconds_of, calls, work=1.0):
    """Let calls take ``seconds_of[several]`` per unit of work; return which had several threads."""
    taken = []
    for _ in range(calls):
        several = choice.several(work)
        taken.append(several)
        choice.learn(several, work, work * seconds_of[several])
    return taken


NEAR = {False: 1.0, True: 0.2}
FAR = {False: 1.0, True: 3.0}


def test_both_ways_are_tried_in_turn_and_the_faster_one_is_kept():
    for seconds, faster in ((NEAR, True), (FAR, False)):
        choice = Choice()
        assert take(choice, seconds, 2 * CALLS) == [True, False] * CALLS
        assert take(choice, seconds, 100) == [faster] * 100


def test_the_first_call_may_compile():
    choice = Choice()
    take(choice, {True: 1000.0}, 1)
    take(choice, NEAR, 2 * CALLS - 1)
    assert take(choice, NEAR, 40) == [True] * 40


def test_several_threads_have_to_be_faster_by_a_margin():
    for seconds, several in ((1.0 - 0.5 * MARGIN, False), (1.0 - 2.0 * MARGIN, True)):
        choice = Choice()
        take(choice, {False: 1.0, True: seconds}, 2 * CALLS)
        assert choice.several(1.0) is several


@pytest.mark.parametrize("slow", [1.5, 3.0, 100.0])
@pytest.mark.parametrize("slower", [True, False])
def test_trials_of_the_slower_way_cost_little(slower, slow):
    choice, seconds = Choice(), {slower: slow, not slower: 0.5}
    take(choice, seconds, 2 * CALLS)
    taken = take(choice, seconds, 20_000)
    trials = taken.count(slower)
    assert trials >= 1
    assert trials * slow <= 1.01 * TRIAL_SHARE * 20_000 * 0.5


def test_trials_that_gain_less_than_the_margin_cost_little():
    choice, little = Choice(), {False: 1.0, True: 1.0 - 0.5 * MARGIN}
    take(choice, little, 2 * CALLS)
    assert 1 < take(choice, little, 20_000).count(True) < 1.1 * TRIAL_SHARE * 20_000


@pytest.mark.parametrize("slow", range(1, CALLS))
def test_a_few_slow_calls_change_nothing_and_more_in_a_row_do(slow):
    choice = Choice()
    take(choice, NEAR, 2 * CALLS)
    assert take(choice, FAR, slow) + take(choice, NEAR, CALLS) == [True] * (slow + CALLS)
    assert take(choice, FAR, CALLS + 1) == [True] * CALLS + [False]


def test_a_way_that_is_fast_again_is_found():
    choice = Choice()
    take(choice, FAR, 2 * CALLS)
    assert take(choice, FAR, 100) == [False] * 100
    late = take(choice, NEAR, 2000)
    assert late[-1000:].count(True) > 950


def test_work_of_other_sizes_is_compared_by_its_unit():
    choice = Choice()
    for work in (1.0, 1.9) * CALLS:  # each way is tried at only one of the sizes
        take(choice, {False: 1.0, True: 0.8}, 1, work)
    assert choice.several(1.0)
    assert choice.several(1.9)
