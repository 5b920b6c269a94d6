"""Signals and forks during a team's work or a training run: it ends cleanly and can go on."""

from __future__ import annotations

import itertools
import os
import pathlib
import pickle
import signal
import sys
import threading

import numpy as np
import pytest
from cases import JIT_DISABLED
from team_work import relay, wait_at_gate

import fastbn
from fastbn.model.inputs import training_samples
from fastbn.parallel import threads as team_threads
from fastbn.parallel.threads import run_team

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")


class Timeout(BaseException):
    """The exception of a user's handler; nobody else would catch it."""


@pytest.fixture
def timeouts():
    """Let SIGUSR1 raise a Timeout in the main thread; `heard` is set before that."""
    heard = threading.Event()

    def handler(number, frame):
        heard.set()
        raise Timeout

    usual = signal.signal(signal.SIGUSR1, handler)
    yield heard
    signal.signal(signal.SIGUSR1, usual)


needs_signals = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="this system has no signals of threads"
)


def press():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)


@needs_signals
@pytest.mark.parametrize("presses", [1, 2, 5])
def test_no_member_computes_when_an_exception_is_raised(timeouts, presses):
    """Signals come while all members wait at a gate, which opens afterwards."""
    cells = np.zeros(5, np.int64)
    run_team(wait_at_gate, 2, lambda member: (np.ones(5, np.int64), member))  # compiles

    def interrupt():
        while not cells[1:3].all():
            pass
        for _ in range(presses):
            press()
        cells[0] = 1

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Timeout):
        run_team(wait_at_gate, 2, lambda member: (cells, member))
    done = cells[3:].tolist()
    thread.join()
    assert done == [1, 1]


class Forking:
    """A handler of SIGUSR1 that forks; `child` is set in the parent, and 0 in the child."""

    def __init__(self):
        self.child, self.is_done = None, threading.Event()

    def __call__(self, number, frame):
        self.child = os.fork()
        if self.child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # ends a child that waits forever
        self.is_done.set()


@pytest.fixture
def forking():
    handler = Forking()
    usual = signal.signal(signal.SIGUSR1, handler)
    yield handler
    signal.signal(signal.SIGUSR1, usual)


def in_parent(forking, work):
    """Do work during which a handler forks; return the exception in the child, or None."""
    try:
        work()
    except RuntimeError as error:
        if forking.child == 0:
            os._exit(7 if "this process was forked" in str(error) else 8)
        raise
    finally:
        if forking.child == 0:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(forking.child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_a_team_works_has_teams_of_its_own():
    """Another thread forks; the child does not have the members of the team."""
    cells, codes = np.zeros(5, np.int64), []
    run_team(wait_at_gate, 2, lambda member: (np.ones(5, np.int64), member))  # compiles

    def fork():
        while not cells[1:3].all():
            pass
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends a child that waits forever
            others = np.zeros(4, np.int64)
            run_team(relay, 2, lambda member: (300, others, member))
            os._exit(7 if others.tolist() == [299, 598, 0, 0] else 8)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        cells[0] = 1

    thread = threading.Thread(target=fork)
    thread.start()
    run_team(wait_at_gate, 2, lambda member: (cells, member))
    thread.join()
    assert codes == [7]
    assert cells[3:].tolist() == [1, 1]


@needs_fork
@needs_signals
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_threads_are_started_does_not_wait_for_them(forking, monkeypatch):
    start, started = threading.Thread.start, []

    def start_and_fork(thread):
        start(thread)
        started.append(thread)
        if len(started) == 1:
            signal.raise_signal(signal.SIGUSR1)

    cells = np.zeros(6, np.int64)
    monkeypatch.setattr(team_threads, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", start_and_fork)
    code = in_parent(forking, lambda: run_team(relay, 3, lambda member: (300, cells, member)))
    assert code == 7
    assert cells.tolist() == [299, 598, 897, 0, 0, 0]


@needs_signals
@pytest.mark.parametrize("place", [0, 1])
def test_an_exception_while_threads_are_started(timeouts, monkeypatch, place):
    cells, started = np.zeros(6, np.int64), []
    start = threading.Thread.start

    def start_and_interrupt(thread):
        start(thread)
        started.append(thread)
        if len(started) == place + 1:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(team_threads, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(Timeout):
        run_team(relay, 3, lambda member: (300, cells, member))
    assert (cells == 0).all()
    assert team_threads._idle == started
    run_team(relay, 3, lambda member: (300, cells, member))
    assert cells.tolist() == [299, 598, 897, 0, 0, 0]


def state_of(model):
    return model.snapshot()


def assert_same_state(model, other):
    assert model.steps == other.steps
    expected = state_of(other)
    for name, value in state_of(model).items():
        assert np.array_equal(value, expected[name]), name


NET = ((6, 16, 3), {"input_normalization": "zscore", "dropout": 0.1})


@needs_signals
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_an_exception_of_a_handler_ends_the_training(rng, monkeypatch, timeouts, threads, way):
    """The model's state is that after `steps` steps, and it can be trained again."""
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    x, y = rng.standard_normal((40_000, 6)), rng.integers(0, 3, 40_000)
    model, other = (fastbn.BatchNormMLP(NET[0], **NET[1]) for _ in range(2))
    fastbn.BatchNormMLP(NET[0], **NET[1]).train_step(x, y)  # compiles
    counter = model._engine.counter

    def interrupt():
        while counter[0] == 0:
            pass
        press()

    thread = threading.Thread(target=interrupt)
    thread.start()
    options = {"epochs": 1000, "progress": False} if way == "fit" else {}
    with pytest.raises(Timeout):
        getattr(model, way)(x, y, batch_size=8, **options)
    thread.join()
    steps, epochs = model.steps, -(-model.steps // 5000)
    assert steps == 5000 or way == "fit"
    samples = training_samples(other, x, y, None)
    for epoch in range(epochs):
        order = other._engine.order_of(epoch, len(x), way == "fit")
        bounds = np.arange(0, 8 * min(steps - 5000 * epoch, 5000) + 1, 8)
        other._engine.run_steps(samples, order, bounds, np.full(bounds.size - 1, 1e-3))
    assert_same_state(model, other)
    assert model.train_step(x, y) == other.train_step(x, y)
    assert_same_state(model, other)


CALLS = {
    "train_step": lambda model, x, y: model.train_step(x, y),
    "fit": lambda model, x, y: model.fit(
        x, y, epochs=2, batch_size=20, validation_data=(x, y), early_stopping=5, progress=False
    ),
    "predict": lambda model, x, y: model.predict(np.tile(x, (40, 1))),
    "restore": lambda model, x, y: model.restore(model.snapshot()),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_an_exception_at_any_moment_leaves_a_model_that_trains(rng, monkeypatch, name, threads):
    """An exception at the start of each of fastbn's functions, and after each call of C code.

    These are the moments at which Python runs signal handlers.
    """
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    package = str(pathlib.Path(fastbn.__file__).parent)
    x, y = rng.standard_normal((40, 6)), np.arange(40) % 3
    first = fastbn.BatchNormMLP(NET[0], **NET[1])
    first.train_step(x, y)
    CALLS[name](pickle.loads(pickle.dumps(first)), x, y)  # compiles
    reached = {}  # states, by number of steps

    def profile(frame, event, arg):
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(package):
            left -= 1
            if left == 0:
                raise Timeout

    for moment in itertools.count(1, 3 if name == "fit" else 1):  # a fit has many of them
        model, left = pickle.loads(pickle.dumps(first)), moment
        usual = sys.getprofile()
        sys.setprofile(profile)
        try:
            CALLS[name](model, x, y)
        except Timeout:
            pass
        finally:
            sys.setprofile(usual)
        if left > 0:
            break
        state = reached.setdefault(model.steps, state_of(model))
        for tensor, value in state_of(model).items():
            assert np.array_equal(value, state[tensor]), (tensor, moment)
        errors = []

        def attempt(model=model, errors=errors):
            try:
                model.train_step(x, y)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=attempt)  # a lock that was not released would prevent this
        thread.start()
        thread.join()
        assert errors == []
    assert moment > 10
