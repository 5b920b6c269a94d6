"""Teams: the same bits with any number of threads, barriers that wait for all, clean ends."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref

import numpy as np
import pytest
from cases import JIT_DISABLED
from team_work import relay

import fastbn
import fastbn.model.engine as model_module
from fastbn.jit.compiler import njit
from fastbn.model.inputs import training_samples
from fastbn.parallel import team, threads
from fastbn.parallel.team_size import prediction_threads
from fastbn.parallel.threads import run_team

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")

# one unit, fewer units than threads, primes, whole tiles and panels; the same for batches
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
    for size, chunks in [(1, 1), (2, 1), (3, 4), (4, 1), (8, 2), (1, 4)]:
        monkeypatch.setenv("FASTBN_NUM_THREADS", str(size))
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
        ((20, 64, 2), 64, 1, False),  # a single member
        ((20, 64, 2), 64, 2, True),
        ((20, 63, 2), 64, 2, False),  # too few features
        ((20, 64, 2), 64, 3, False),
        ((784, 256, 10), 128, 2, True),
        ((784, 256, 10), 6000, 2, False),  # too large a minibatch
        ((30, 451, 9), 41, 8, True),
    ],
)
def test_gathers_whole_batch(sizes, rows, members, kept):
    layout = fastbn.BatchNormMLP(sizes).layout
    assert layout.gathers_whole_batch(rows, members) is kept
    if members == 2:
        assert layout.barriers(rows) == 2 * (len(sizes) - 1) + (1 if kept else 4)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_nobody_passes_a_barrier_before_all_are_there(size):
    """This includes more threads than cores: those that wait yield the core to the others."""
    cells = np.zeros(2 * size, np.int64)
    run_team(relay, size, lambda member: (500, cells, member))
    assert (cells[size:] == 0).all()
    assert size == 1 or (cells[:size] == 499 * np.arange(1, size + 1)).all()


def test_threads_sleep_between_calls_and_are_used_again(monkeypatch):
    monkeypatch.setattr(threads, "_idle", [])
    before = threading.active_count()
    for size in (3, 2, 3):
        test_nobody_passes_a_barrier_before_all_are_there(size)
        assert threading.active_count() == before + 2
    sleeping = list(threads._idle)
    used = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - used < 0.1  # they do not spin
    assert sleeping == threads._idle
    assert len(set(sleeping)) == 2


@pytest.mark.parametrize(
    "options",
    [{}, {"activation": "tanh", "batch_norm": False}, {"input_normalization": "zscore"}],
)
def test_predictions_of_few_samples_by_many_threads(rng, monkeypatch, options):
    """They share the units of each layer, or tiles of samples."""
    model = fastbn.BatchNormMLP((300, 2000, 1100, 3), **options)
    x = rng.standard_normal((33, 300)).astype(np.float32)
    model.partial_fit(x, np.arange(33) % 3)
    monkeypatch.setenv("FASTBN_NUM_THREADS", "1")
    expected = model.predict_logits(x)
    for size in (2, 3, 8):
        monkeypatch.setenv("FASTBN_NUM_THREADS", str(size))
        assert prediction_threads(model.layout.prediction_flops(9), False) == size
        for rows in (9, 17, 33):
            assert np.array_equal(model.predict_logits(x[:rows]), expected[:rows])
        kept = model.params  # each prediction packs the weights
        assert np.array_equal(model.predict_logits(x), expected)
        del kept


def test_a_worker_sees_the_next_team():
    """It waits for a member of a new team, and neither for the last team nor for ever."""
    counters = np.zeros(team.N_COUNTERS, np.int64)
    never = 10**18
    arguments = counters, np.zeros(1, np.int64), 10**10, never
    waiting = threading.Thread(target=team.end_and_await, args=arguments)
    waiting.start()
    counters[team.DECISION], counters[team.PRESENT] = team.COMPLETE, 2  # the last team
    time.sleep(0.05)
    assert waiting.is_alive()
    counters[team.PRESENT] = counters[team.DECISION] = 0
    time.sleep(0.05)
    assert waiting.is_alive()
    counters[team.PRESENT] = 1
    waiting.join(60)
    assert not waiting.is_alive()
    assert counters[team.ENDED] == 1
    counters[:] = 0
    assert team.end_and_await(counters, np.zeros(1, np.int64), 1000, never)
    assert team.end_and_await(counters, np.ones(1, np.int64), 10**10, never)
    assert not team.end_and_await(counters, np.zeros(1, np.int64), 10**10, 0)


def test_calls_share_counters_only_one_after_the_other(monkeypatch):
    monkeypatch.setattr(threads, "_unused", [])
    cells = np.zeros(6, np.int64)
    run_team(relay, 3, lambda member: (5, cells, member))
    (counters,) = threads._unused
    run_team(relay, 3, lambda member: (5, cells, member))
    assert threads._unused[0] is counters
    assert len(threads._unused) == 1

    def members(member):
        seen.append(member.counters)
        if len(seen) == 1:  # a call during another one, as of another thread
            run_team(relay, 2, lambda inner: (5, np.zeros(4, np.int64), inner))
            assert threads._unused[0] is not counters
        return 5, cells, member

    seen = []
    run_team(relay, 3, members)
    assert all(one is counters for one in seen)
    assert len(threads._unused) == 2

    def interrupt(member):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_team(relay, 3, interrupt)
    assert len(threads._unused) == 1, "a call that did not end normally keeps its counters"


def test_many_short_calls_in_many_threads():
    def calls(size):
        for n in range(200):
            cells = np.zeros(2 * size, np.int64)
            run_team(relay, size, lambda member, cells=cells: (3, cells, member))
            if cells[size:].any() or (cells[:size] != 2 * np.arange(1, size + 1)).any():
                wrong.append((size, n))

    wrong = []
    callers = [threading.Thread(target=calls, args=(size,)) for size in (2, 3, 2, 4, 2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_arguments_are_released_after_a_call():
    def call():
        cells = np.zeros(4, np.int64)
        run_team(relay, 2, lambda member: (5, cells, member))
        return weakref.ref(cells)

    alive = call()
    gc.collect()
    assert alive() is None


def test_a_team_that_cannot_be_complete_does_nothing(monkeypatch):
    start = threading.Thread.start
    started = []

    def refuse_the_third(thread):
        started.append(thread)
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    cells = np.zeros(8, np.int64)
    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)
    with pytest.raises(RuntimeError, match="can't start"):
        run_team(relay, 4, lambda member: (5, cells, member))
    assert (cells == 0).all()
    assert threads._idle == started[:2]  # ready for the next call
    monkeypatch.setattr(threading.Thread, "start", start)
    run_team(relay, 4, lambda member: (5, cells, member))
    assert cells.tolist() == [4, 8, 12, 16, 0, 0, 0, 0]


def test_ctrl_c_is_handled_when_the_team_is_done(monkeypatch):
    cells = np.zeros(6, np.int64)
    start = threading.Thread.start

    def start_and_interrupt(thread):
        start(thread)
        started.append(thread)
        if len(started) == 2:
            signal.raise_signal(signal.SIGINT)

    started = []
    monkeypatch.setattr(threads, "_idle", [])
    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_team(relay, 3, lambda member: (300, cells, member))
    assert cells.tolist() in ([299, 598, 897, 0, 0, 0], [0] * 6)  # all rounds, or none
    assert threads._idle == started


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
    trainers = [threading.Thread(target=lambda: results.append(trained())) for _ in range(6)]
    for thread in trainers:
        thread.start()
    for thread in trainers:
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
