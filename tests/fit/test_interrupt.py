"""Ctrl-C and SIGTERM during a fit, also in processes that are forked during it."""

from __future__ import annotations

import os
import signal

import pytest

from fastbn.fit.interrupt import Signals, interrupting_fits
from fastbn.jit.postponed_signals import Postponed


def press():
    signal.raise_signal(signal.SIGINT)


def test_work_within_a_fit_hands_ctrl_c_to_it():
    work = Postponed()
    with Signals(terminate=False) as signals:
        with work:
            press()
            assert not signals.stop_requested
        assert signals.stop_requested
        with pytest.raises(KeyboardInterrupt), work:  # the second
            press()


def test_a_handler_that_a_fit_has_left_behind_steps_aside():
    """Another signal handler may raise between the end of a fit and `__exit__`."""
    signals = Signals(terminate=True)

    def fit():
        signals.__enter__()
        press()  # the handler was called, so the fit is running

    fit()
    assert signals.stop_requested
    signals.stop_requested = False
    with pytest.raises(KeyboardInterrupt):
        press()
    assert not signals.stop_requested
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signals.__exit__()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_fit_takes_over_from_a_handler_that_another_has_left_behind():
    def fit():
        Signals(terminate=True).__enter__()

    fit()
    with Signals(terminate=True) as signals:
        press()
        assert signals.stop_requested
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_fit_within_a_fit_leaves_its_signals_to_it():
    with Signals(terminate=False) as outer:
        with Signals(terminate=False) as inner:
            press()
        assert outer.stop_requested
        assert not inner.stop_requested


def test_ctrl_c_that_interrupts_a_fit_at_once():
    with pytest.raises(KeyboardInterrupt), interrupting_fits(), Signals(terminate=True):
        press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_forked_during_a_fit_can_be_ended():
    """Otherwise a worker that a callback starts would never end, and its pool would hang."""
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
        assert not signals.stop_requested
