"""One thread or several: the one rule for parallel regions of numba's and for teams."""

from __future__ import annotations

# Calls of which the fastest says how long one takes: the others may have compiled, or waited for a
# core.
CALLS = 3

# Several threads have to be faster by this part of the time of one.
MARGIN = 0.1

# A call in the way that is slower may take this part of the time that has gone by.
TRIAL_SHARE = 0.02


class Choice:
    """One thread or several for calls of about equal work: whichever was faster in recent calls.

    What is faster changes. The threads of another library's pool may spin on the cores long after
    their work, NumPy's BLAS among them: a parallel region then waits for a core, for a hundred
    times as long as its work takes. On a virtual machine a cache line may take ten times as long
    from core to core as it took a minute ago. So the times of the last calls decide: first of some
    in each way in turn, and then of a call in the slower way whenever that takes no more than
    TRIAL_SHARE of the time that has gone by since the last one.
    """

    def __init__(self) -> None:
        self._times: dict[bool, list[float]] = {True: [], False: []}  # of a unit of work
        self._since = 0.0  # seconds since a trial of the slower way has failed

    def several(self, work: float) -> bool:
        """Tell whether the next call, of so much work, is for several threads."""
        tried = {several: len(times) for several, times in self._times.items()}
        if min(tried.values()) < CALLS:
            return tried[True] <= tried[False]
        usual = {way: min(taken) for way, taken in self._times.items()}
        several = _is_faster(usual)
        is_trial = TRIAL_SHARE * self._since > usual[not several] * work
        return several != is_trial

    def learn(self, several: bool, work: float, seconds: float) -> None:
        """Take note of how long a call took."""
        times = self._times[several]
        times.append(seconds / work)
        del times[:-CALLS]
        if not self._times[not several]:
            return
        usual = {way: min(taken) for way, taken in self._times.items()}
        if several == _is_faster(usual):
            self._since += seconds
        elif several != _is_faster({**usual, several: seconds / work}):  # the trial has failed
            self._since = 0.0


def _is_faster(times: dict[bool, float]) -> bool:
    """Tell whether several threads are: their time beside that of one."""
    return times[True] < (1.0 - MARGIN) * times[False]
