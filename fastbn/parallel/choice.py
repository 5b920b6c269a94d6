"""Pick one thread or several from recent timings, for numba's parallel regions and for teams."""

from __future__ import annotations

# How many recent calls are compared. The fastest counts: others may have compiled, or waited for a
# core.
TRIAL_CALLS = 3

# Several threads must save at least this fraction of the time of one thread.
MARGIN = 0.1

# A trial has at least this many seconds of calls, and TRIAL_CALLS calls. A core of a virtual
# machine that was idle takes some milliseconds until it works at full speed.
TRIAL_SECONDS = 0.02

# A trial may take this fraction of the time since the last trial.
TRIAL_SHARE = 0.02

# The first trial of several threads takes place at once if they are expected to take no more than
# this fraction of the time of one thread.
HOPEFUL = 0.8

# A trial ends after a call that takes this many times as long as usual. The first call with several
# threads does not end it, because it may have compiled.
FAR_SLOWER = 3.0


class Choice:
    """Picks one thread or several for calls of about equal work, from recent timings.

    Which way is faster changes over time. The threads of another library, such as a BLAS, may spin
    on the cores long after their work is done: a parallel region then waits for a core, a hundred
    times as long as it computes. On a virtual machine, moving a cache line from core to core may
    take ten times as long as a minute ago. So calls begin with one thread and try several ones for
    some time; from then on they use the faster way, and try the other one again as soon as a trial
    takes no more than TRIAL_SHARE of the time since the last one.

    Attributes
    ----------
    expected : float
        The time of several threads as a multiple of that of one thread, before it is known.
    """

    def __init__(self) -> None:
        self.expected = 0.0
        self._present = False  # whether calls outside trials have several threads
        self._alone: list[float] = []  # recent times of one thread, seconds per unit of work
        self._together: list[float] = []  # of several threads
        self._since = 0.0  # seconds of calls since the last trial
        self._trial: list[float] = []  # seconds of the calls of the present trial

    def several(self, work: float) -> bool:
        """Tell whether the next call, of this much work, gets several threads."""
        return self._present != (bool(self._trial) or self._is_due(work))

    def _is_due(self, work: float) -> bool:
        if len(self._alone) < 2:  # the first call may have compiled
            return False
        if not self._together and self.expected <= HOPEFUL:
            return True
        alone, together = self._usual()
        usual, other = (together, alone) if self._present else (alone, together)
        calls = 1 if other >= FAR_SLOWER * usual else TRIAL_CALLS
        return TRIAL_SHARE * self._since > max(calls * other * work, TRIAL_SECONDS)

    def learn(self, several: bool, work: float, seconds: float) -> None:
        """Record how long a call took."""
        times = self._together if several else self._alone
        if len(times) == TRIAL_CALLS:
            del times[0]
        times.append(seconds / work)
        if not self._alone:
            return
        alone, together = self._usual()
        usual = together if self._present else alone
        if several == self._present:
            self._since += usual * work
        else:
            self._trial.append(seconds)
            is_complete = len(self._trial) >= TRIAL_CALLS and sum(self._trial) >= TRIAL_SECONDS
            is_hopeless = len(times) > 1 and times[-1] >= FAR_SLOWER * usual
            if not (is_complete or is_hopeless):
                return
            self._trial.clear()
            self._since = 0.0
        if self._together:
            self._present = together < (1.0 - MARGIN) * alone

    def _usual(self) -> tuple[float, float]:
        """Return the seconds per unit of work of one thread and of several, or those expected."""
        alone = min(self._alone)
        return alone, min(self._together) if self._together else self.expected * alone
