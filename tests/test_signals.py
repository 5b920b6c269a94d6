"""Signals during a fit, also in processes that are forked meanwhile, and while work is done."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from fastbn._signals import Postponed, Signals, interrupting_fits


def press():
    signal.raise_signal(signal.SIGINT)


def test_work_that_ctrl_c_waits_for():
    work, done = Postponed(), []

    def whole():
        with work:
            press()
            done.append("all")

    def before_a_part():
        with work:
            press()
            done.append("before a part")
            with work:
                done.append("a part")

    def in_a_part():
        with work:
            with work:
                press()
                done.append("a part")
            done.append("what is left")

    for interrupted in (whole, before_a_part, in_a_part):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert done == ["all", "before a part", "a part", "what is left"]
    with work:
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_work_within_a_fit_hands_ctrl_c_to_it():
    work = Postponed()
    with Signals(terminate=False) as signals:
        with work:
            press()
            assert not signals.pressed
        assert signals.pressed
        with pytest.raises(KeyboardInterrupt), work:  # the second
            press()


def test_work_of_another_thread_leaves_ctrl_c_alone():
    work, threads = Postponed(), []

    def in_another():
        with work, interrupting_fits():
            threads.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_another)
    thread.start()
    thread.join()
    assert threads == [signal.default_int_handler]


def test_ctrl_c_that_is_ignored_stays_so():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Postponed():
            press()
        with interrupting_fits():
            press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)


def test_ctrl_c_that_interrupts_a_fit_at_once():
    with pytest.raises(KeyboardInterrupt), interrupting_fits(), Signals(terminate=True):
        press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
