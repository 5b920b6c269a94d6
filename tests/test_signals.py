"""Signals during a fit, in processes that are forked meanwhile."""

from __future__ import annotations

import os
import signal

import pytest

from fastbn._signals import Signals


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_a_process_forked_during_a_fit_can_be_ended():
    """A worker that a callback starts would else go on for ever, and its pool wait for it."""
    with Signals(terminate=True) as signals:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert not signals.pressed
