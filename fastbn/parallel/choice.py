"""Pick one thread or several from recent timings, for numba's parallel regions and for teams."""

from __future__ import annotations

# How many recent calls are compared. The fastest counts: others may have compiled, or waited for a
# core.
CALLS = 3

# Several threads must save at least this fraction of the time of one thread.
MARGIN = 0.1

# A trial of the slower way may take this fraction of the time since the last trial.
TRIAL_SHARE = 0.02


class Choice:
    """Picks one thread or several for calls of about equal work, from recent timings.

    Which way is faster changes over time. The threads of another library, such as a BLAS, may spin
    on the cores long after their work is done: a parallel region then waits for a core, a hundred
    times as long as it computes. On a virtual machine, moving a cache line from core to core may
    take ten times as long as a minute ago. So the first calls try both ways in turns, and later
    calls use the faster one. The slower one is tried again as soon as a call with it takes no more
    than TRIAL_SHARE of the time since the last trial.
    """

    def __init__(self) -> None:
        self._times: dict[bool, list[float]] = {True: [], False: []}  # seconds per unit of work
        self._since = 0.0  # seconds of calls since the last trial that stayed slower

    def several(self, work: float) -> bool:
        """Tell whether the next call, of this much work, gets several threads."""
        tried = {several: len(times) for several, times in self._times.items()}
        if min(tried.values()) < CALLS:
            return tried[True] <= tried[False]
        usual = {way: min(taken) for way, taken in self._times.items()}
        several = _is_faster(usual)
        is_trial = TRIAL_SHARE * self._since > usual[not several] * work
        return several != is_trial

    def learn(self, several: bool, work: float, seconds: float) -> None:
        """Record how long a call took."""
        times = self._times[several]
        times.append(seconds / work)
        del times[:-CALLS]
        if not self._times[not several]:
            return
        usual = {way: min(taken) for way, taken in self._times.items()}
        if several == _is_faster(usual):
            self._since += seconds
        elif several != _is_faster({**usual, several: seconds / work}):  # a trial, still slower
            self._since = 0.0


def _is_faster(times: dict[bool, float]) -> bool:
    """Tell whether several threads (True) are faster than one (False)."""
    return times[True] < (1.0 - MARGIN) * times[False]
