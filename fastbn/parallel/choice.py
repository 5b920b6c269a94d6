"""The rule that picks one thread or several, for numba's parallel regions and for teams."""

from __future__ import annotations

# Recent calls, the fastest of which counts: the others may have compiled, or waited for a core.
CALLS = 3

# Several threads must be faster than one by this part of its time.
MARGIN = 0.1

# A trial of the slower way may take this part of the time since the last one.
TRIAL_SHARE = 0.02


class Choice:
    """Picks one thread or several for calls of about equal work, from recent timings.

    Which is faster changes. The threads of another library's pool, such as a BLAS, may spin on the
    cores long after their work: a parallel region then waits for a core, a hundred times as long as
    its work takes. On a virtual machine a cache line may take ten times as long from core to core
    as a minute ago. So the first calls alternate, and then the faster way is taken. The slower one
    is tried again when a call takes no more than TRIAL_SHARE of the time since the last trial.
    """

    def __init__(self) -> None:
        self._times: dict[bool, list[float]] = {True: [], False: []}  # of a unit of work
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
    """Tell whether several threads are faster, by their time and that of one."""
    return times[True] < (1.0 - MARGIN) * times[False]
