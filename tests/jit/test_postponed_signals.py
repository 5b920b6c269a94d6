"""Signals that arrive during work that postpones them."""

from __future__ import annotations

import signal
import threading

import pytest

from fastbn.fit.interrupt import interrupting_fits
from fastbn.jit.postponed_signals import Postponed


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


class Timeout(Exception):
    """What a user's handler raises."""


NUMBERS = [signal.SIGTERM, signal.SIGINT]
if hasattr(signal, "SIGALRM"):  # not on Windows
    NUMBERS += [signal.SIGALRM, signal.SIGUSR1]


@pytest.fixture
def called():
    """Give each signal a handler in Python; return the list of signals whose handlers ran."""
    called = []
    usual = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, lambda number, frame: called.append(number))
    yield called
    for number, handler in usual.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


def test_every_signal_waits_and_has_its_own_number(called):
    before, work = handlers(), Postponed()
    with work:
        for number in (*NUMBERS, NUMBERS[0]):
            signal.raise_signal(number)
        assert called == []
        with work:
            assert called == NUMBERS, "between two parts"
            for number in reversed(NUMBERS):
                signal.raise_signal(number)
        assert called == NUMBERS
    assert called == [*NUMBERS, *reversed(NUMBERS)]
    assert handlers() == before


def test_handlers_that_raise_do_not_keep_signals_from_other_handlers(called):
    def handler(number, frame):
        called.append(number)
        raise Timeout

    def raise_all(work, *parts):
        with work:
            for number in NUMBERS:
                signal.raise_signal(number)
            for part in parts:
                with part:
                    pass

    before = handlers()
    signal.signal(signal.SIGTERM, handler)
    for within in (True, False):
        work = Postponed()
        called.clear()
        with pytest.raises(Timeout):
            raise_all(work, *[work] * within)
        assert called == NUMBERS
        assert handlers()[1:] == before[1:]
        assert signal.getsignal(signal.SIGTERM) is handler
        called.clear()
        with work:  # it is as new
            signal.raise_signal(signal.SIGINT)
        assert called == [signal.SIGINT]


@pytest.mark.parametrize("other", [None, ValueError])
def test_an_exception_of_a_handler_is_seen_whatever_the_work_makes_of_it(called, other):
    """Numba catches all kinds of exceptions, and tries something else or raises its own."""

    def handler(number, frame):
        raise Timeout

    signal.signal(signal.SIGTERM, handler)
    work = Postponed()

    def compile_all():
        with work:
            signal.raise_signal(signal.SIGTERM)
            try:
                with work:
                    pass
            except Exception:
                if other is not None:
                    raise other from None

    with pytest.raises(Timeout):
        compile_all()
    with work:
        pass
    with pytest.raises(ValueError, match="its own"), work:
        raise ValueError("its own")


def test_a_handler_that_a_handler_sets_stays(called):
    def handler(number, frame):
        signal.signal(number, signal.SIG_IGN)

    signal.signal(signal.SIGTERM, handler)
    work = Postponed()
    with work:
        signal.raise_signal(signal.SIGTERM)
        with work:
            pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_handler_is_given_the_frame_that_was_interrupted(called):
    frames = []
    signal.signal(signal.SIGTERM, lambda number, frame: frames.append(frame.f_code.co_name))
    with Postponed():
        signal.raise_signal(signal.SIGTERM)
    assert frames == ["test_a_handler_is_given_the_frame_that_was_interrupted"]


def test_a_signal_before_its_handler_is_replaced(called, monkeypatch):
    """Handlers that were replaced before that are restored."""

    def handler(number, frame):
        raise Timeout

    signal.signal(NUMBERS[-1], handler)
    before, change = handlers(), signal.signal

    def change_and_raise(number, handler):
        found = change(number, handler)
        if number == signal.SIGINT and handler == work._hear:
            signal.raise_signal(NUMBERS[-1])
        return found

    work = Postponed()
    monkeypatch.setattr(signal, "signal", change_and_raise)
    with pytest.raises(Timeout), work:
        called.append("work")
    monkeypatch.undo()
    assert called == []
    assert handlers() == before


def test_work_of_another_thread_leaves_ctrl_c_alone():
    work, threads = Postponed(), []

    def in_another():
        with work, interrupting_fits():
            threads.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_another)
    thread.start()
    thread.join()
    assert threads == [signal.default_int_handler]


def test_an_ignored_ctrl_c_stays_ignored():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Postponed():
            press()
        with interrupting_fits():
            press()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)
