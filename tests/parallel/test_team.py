"""Teams: the same bits for any number of threads, barriers that hold, and clean ends."""

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

import fastbn
import fastbn.model.engine as model_module
from fastbn.jit.compiler import njit
from fastbn.model.inputs import training_samples
from fastbn.parallel import team
from fastbn.parallel.threads import run_team

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")

# one unit, fewer units than threads, primes, whole tiles and panels; batches likewise
NETS = [
    ((1, 2), 2, {}),
    ((3, 1, 2), 5, {}),
    ((20, 64, 64, 2), 64, {}),
    ((37, 41, 13, 7), 67, {"dropout": 0.2, "max_norm": 0.5}),
    ((784, 32, 10), 600, {"input_normalization": "zscore"}),
    ((300, 130, 10), 33, {"batch_norm": False, "optimizer": "sgd"}),
    ((40, 24, 5), 129, {"dtype": "float64", "optimizer": "rmsprop"}),
    ((13, 41, 29, 7), 67, {"dtype": "float64"}),
    ((37, 190, 11), 33, {"dtype": "float64", "optimizer": "adamw", "weight_decay": 0.1}),
    # features of the first layer that stay with 2, 4 or 8 threads
    ((19, 70), 33, {"dtype": "float64", "optimizer": "sgd", "momentum": 0.9}),
    ((23, 131, 37, 3), 67, {"dropout": 0.3, "max_norm": 0.1}),
    ((30, 451, 70, 9), 41, {"dtype": "float64"}),
]


@pytest.mark.parametrize(("sizes", "batch", "options"), NETS)
def test_the_same_bits_for_any_number_of_threads_and_any_chunks(
    rng, monkeypatch, sizes, batch, options
):
    n = 4 * batch
    x, y = rng.standard_normal((n, sizes[0])), rng.integers(0, sizes[-1], n)
    weight = rng.uniform(0.5, 1, n)
    results = []
    for threads, chunks in [(1, 1), (2, 1), (3, 4), (4, 1), (8, 2), (1, 4)]:
        monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
        model = fastbn.BatchNormMLP(sizes, **options)
        samples = training_samples(model, x, y, weight)
        losses = []
        for order in np.split(np.tile(np.arange(n)[::-1], 4), chunks):
            bounds = np.arange(0, order.size + 1, batch)
            steps = bounds.size - 1
            losses.append(model._engine.run_steps(samples, order, bounds, np.full(steps, 0.01))[0])
        logits = model.predict_logits(np.tile(x, (5, 1)))
        state = {**model._engine.state(), "losses": np.concatenate(losses), "logits": logits}
        results.append({name: value.copy() for name, value in state.items()})
    assert np.isfinite(results[0]["losses"]).all()
    for other in results[1:]:
        for name, value in results[0].items():
            assert np.array_equal(value, other[name]), name


@pytest.mark.parametrize(
    ("sizes", "rows", "members", "kept"),
    [
        ((20, 64, 2), 64, 1, False),  # nobody to share with
        ((20, 64, 2), 64, 2, True),
        ((20, 63, 2), 64, 2, False),  # too few features
        ((20, 64, 2), 64, 3, False),
        ((784, 256, 10), 128, 2, True),
        ((784, 256, 10), 6000, 2, False),  # too much data
        ((30, 451, 9), 41, 8, True),
    ],
)
def test_who_keeps_features_of_the_first_layer(sizes, rows, members, kept):
    layout = fastbn.BatchNormMLP(sizes).layout
    assert layout.gathers_whole_batch(rows, members) is kept
    if members == 2:
        assert layout.barriers(rows) == 2 * (len(sizes) - 1) + (1 if kept else 4)


@njit
def relay(rounds, cells, member):
    """Every member writes its cell, and after the barrier reads all: the sum is known."""
    wrong = 0
    for r in range(rounds):
        cells[member.rank] = r * (member.rank + 1)
        team.barrier(member)
        total = 0
        for k in range(member.size):
            total += cells[k]
        if total != r * member.size * (member.size + 1) // 2:
            wrong += 1
        team.barrier(member)
    cells[member.size + member.rank] = wrong


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_nobody_passes_a_barrier_before_all_are_there(size):
    """More threads than cores, too: whoever waits gives the core to the others."""
    cells = np.zeros(2 * size, np.int64)
    run_team(relay, size, lambda member: (500, cells, member))
    assert (cells[size:] == 0).all()
    assert size == 1 or (cells[:size] == 499 * np.arange(1, size + 1)).all()


def test_nothing_of_a_team_is_left():
    before = threading.active_count()
    test_nobody_passes_a_barrier_before_all_are_there(3)
    assert threading.active_count() == before


def test_a_team_that_cannot_be_complete_does_nothing(monkeypatch):
    start = threading.Thread.start
    started = []

    def refuse_the_third(thread):
        started.append(thread)
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    cells = np.zeros(8, np.int64)
    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)
    with pytest.raises(RuntimeError, match="can't start"):
        run_team(relay, 4, lambda member: (5, cells, member))
    assert (cells == 0).all()
    assert not any(thread.is_alive() for thread in started[:2])


def test_ctrl_c_is_heard_when_the_team_is_done(monkeypatch):
    cells = np.zeros(4, np.int64)
    start = threading.Thread.start

    def start_and_interrupt(thread):
        start(thread)
        if thread is threads[-1]:
            signal.raise_signal(signal.SIGINT)

    threads = []
    init = threading.Thread.__init__

    def note(thread, *args, **kwargs):
        init(thread, *args, **kwargs)
        threads.append(thread)

    monkeypatch.setattr(threading.Thread, "__init__", note)
    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_team(relay, 2, lambda member: (300, cells, member))
    assert not any(thread.is_alive() for thread in threads)
    assert cells.tolist() in ([299, 598, 0, 0], [0, 0, 0, 0])  # all of it, or nothing


class Timeout(BaseException):
    """What a handler of the user's raises: no error that anybody else would catch."""


@pytest.fixture
def timeouts():
    """SIGUSR1 raises a Timeout in the main thread; `heard` is set before."""
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


@njit
def wait_at_gate(cells, member):
    """Say that the member is here, wait until cells[0] is 1, and say that it is done."""
    cells[1 + member.rank] = 1
    while team.atomic_load(cells, 0) == 0:
        team.yield_core()
    cells[1 + member.size + member.rank] = 1


@needs_signals
@pytest.mark.parametrize("presses", [1, 2, 5])
def test_no_member_computes_when_an_exception_is_raised(timeouts, presses):
    """The gate opens after the first exception in the main thread, and some more meanwhile."""
    cells = np.zeros(5, np.int64)
    run_team(wait_at_gate, 2, lambda member: (np.ones(5, np.int64), member))  # compiles

    def interrupt():
        while not cells[1:3].all():
            pass
        press()
        timeouts.wait()
        for _ in range(presses - 1):
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
            signal.alarm(60)  # ends a child that waits for ever
        self.is_done.set()


@pytest.fixture
def forking():
    handler = Forking()
    usual = signal.signal(signal.SIGUSR1, handler)
    yield handler
    signal.signal(signal.SIGUSR1, usual)


def in_parent(forking, work):
    """Do some work that is forked meanwhile: what it raised in the child, or None."""
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
@needs_signals
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_a_team_works_does_not_wait_for_it(forking):
    cells = np.zeros(5, np.int64)
    run_team(wait_at_gate, 2, lambda member: (np.ones(5, np.int64), member))  # compiles

    def fork():
        while not cells[1:3].all():
            pass
        press()
        forking.is_done.wait()
        cells[0] = 1

    thread = threading.Thread(target=fork)
    thread.start()
    code = in_parent(forking, lambda: run_team(wait_at_gate, 2, lambda member: (cells, member)))
    thread.join()
    assert code == 7
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
    monkeypatch.setattr(threading.Thread, "start", start_and_fork)
    code = in_parent(forking, lambda: run_team(relay, 3, lambda member: (300, cells, member)))
    assert code == 7
    assert cells.tolist() == [299, 598, 897, 0, 0, 0]


@needs_signals
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_exception_while_threads_are_started(timeouts, monkeypatch, place):
    cells, started = np.zeros(6, np.int64), []
    start = threading.Thread.start

    def start_and_interrupt(thread):
        start(thread)
        started.append(thread)
        if len(started) == place + 1:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(Timeout):
        run_team(relay, 3, lambda member: (300, cells, member))
    assert not any(thread.is_alive() for thread in started)
    if place < 2:
        assert (cells == 0).all()
    else:  # all of it, or nothing
        assert cells.tolist() in ([299, 598, 897, 0, 0, 0], [0] * 6)


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
    """The model is as it was after so many steps as it counts, and trains again."""
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
    """Of fastbn's own functions: at the start of each, and after each call of C code.

    These are the moments at which Python runs handlers of signals.
    """
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    package = str(pathlib.Path(fastbn.__file__).parent)
    x, y = rng.standard_normal((40, 6)), np.arange(40) % 3
    first = fastbn.BatchNormMLP(NET[0], **NET[1])
    first.train_step(x, y)
    CALLS[name](pickle.loads(pickle.dumps(first)), x, y)  # compiles
    reached = {}  # states by number of steps

    def profile(frame, event, arg):
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(package):
            left -= 1
            if left == 0:
                raise Timeout

    for moment in itertools.count(1, 3 if name == "fit" else 1):  # a fit has many
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

        thread = threading.Thread(target=attempt)  # which a lock left behind would keep out
        thread.start()
        thread.join()
        assert errors == []
    assert moment > 10


def test_an_error_of_the_compiler_reaches_the_caller():
    @njit
    def nonsense(member):
        return member.no_such_field

    with pytest.raises(Exception, match="no_such_field"):
        run_team(nonsense, 2, lambda member: (member,))


def test_models_in_many_threads_at_once(rng, monkeypatch):
    monkeypatch.setenv("FASTBN_NUM_THREADS", "2")
    x, y = rng.standard_normal((256, 12)), rng.integers(0, 3, 256)

    def trained():
        model = fastbn.BatchNormMLP((12, 20, 3))
        model.fit(x, y, epochs=5, batch_size=32)
        return model.params.copy()

    expected = trained()
    results = []
    threads = [threading.Thread(target=lambda: results.append(trained())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(np.array_equal(result, expected) for result in results)


def test_steps_count_when_ctrl_c_comes_at_the_end_of_a_call(rng, monkeypatch):
    def interrupted(function, size, arguments):
        run_team(function, size, arguments)
        raise KeyboardInterrupt

    net = fastbn.BatchNormMLP((3, 2))
    x, y = rng.standard_normal((8, 3)), np.arange(8) % 2
    monkeypatch.setattr(model_module, "run_team", interrupted)
    with pytest.raises(KeyboardInterrupt):
        net.partial_fit(x, y, batch_size=4)
    assert net.steps == 2

    def never(function, size, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(model_module, "run_team", never)
    with pytest.raises(KeyboardInterrupt):
        net.partial_fit(x, y, batch_size=4)
    assert net.steps == 2
