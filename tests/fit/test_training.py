"""The training loop: minibatches, history, stopping, callbacks, Ctrl-C and the progress bar."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastbn
from fastbn.fit import progress as progress_module
from fastbn.fit.plan import minibatch_bounds

SIZES = (6, 9, 4)


@pytest.fixture
def data(rng):
    x = rng.standard_normal((97, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)


def fit(data, model=None, **options):
    model = model or fastbn.BatchNormMLP(SIZES, lr=0.01)
    return model.fit(*data, **({"epochs": 4, "batch_size": 32} | options))


@given(st.integers(1, 500), st.integers(2, 100))
def test_minibatches_cover_the_data_and_none_is_single(n, size):
    bounds = minibatch_bounds(n, size)
    rows = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == n
    assert (rows[:-1] == size).all()
    assert rows[-1] <= size + 1
    assert n == 1 or rows.min() >= 2


def test_one_minibatch_for_all():
    assert minibatch_bounds(3, 10**30).tolist() == [0, 3]


def test_a_single_last_sample_joins_the_minibatch_before(data):
    history = fit(data, epochs=1)  # 97 = 32 + 32 + 33
    assert history.steps == [3]


def test_history(data):
    seen = []
    history = fit(
        data,
        validation_data=(data[0][:20], data[1][:20]),
        schedule="cosine",
        callbacks=[lambda model, history: seen.append((model.steps, history.epochs))],
    )
    assert history.epochs == 4
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "lr", "steps", "seconds"):
        assert len(getattr(history, name)) == 4, name
    assert history.steps == [3, 6, 9, 12]
    assert seen == [(3, 1), (6, 2), (9, 3), (12, 4)]
    assert history.loss[-1] < history.loss[0]
    assert sorted(history.seconds) == history.seconds
    assert sorted(history.lr, reverse=True) == history.lr
    assert history.stop_reason == "epochs"
    assert all(0 <= a <= 1 for a in history.accuracy)


def test_loss_and_accuracy_are_means_over_samples(data):
    model = fastbn.BatchNormMLP(SIZES, seed=1)
    twin = fastbn.BatchNormMLP(SIZES, seed=1)
    history = fit(data, model, epochs=1, shuffle=False)
    bounds = [0, 32, 64, 97]
    losses = [twin.train_step(data[0][a:b], data[1][a:b]) for a, b in itertools.pairwise(bounds)]
    assert history.loss[0] == pytest.approx(np.average(losses, weights=[32, 32, 33]))


def test_shuffling_draws_a_new_order_for_every_epoch():
    model = fastbn.BatchNormMLP(SIZES)
    orders = [model._engine.order_of(epoch, 50, True) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(model._engine.order_of(7, 5, False), np.arange(5))


def test_until_accuracy(data):
    history = fit(data, epochs=500, until_accuracy=0.9)
    assert history.stop_reason == "until_accuracy"
    assert history.accuracy[-1] > 0.9
    assert max(history.accuracy[:-1]) <= 0.9


@pytest.mark.parametrize("truth", [bool, np.bool_])
def test_a_callback_stops(data, truth):
    stop = lambda model, history: truth(history.epochs == 2)  # noqa: E731
    history = fit(data, callbacks=[stop, lambda *_: None])
    assert history.epochs == 2
    assert history.stop_reason == "callback"


def test_early_stopping_goes_back_to_the_best_epoch(data):
    x, y = data
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4, y.size)
    model = fastbn.BatchNormMLP((6, 64, 4), lr=0.03)
    history = model.fit(
        x, noise, epochs=200, batch_size=32, validation_data=(x[::2], y[::2]), early_stopping=5
    )
    assert history.stop_reason == "early_stopping"
    best = int(np.argmin(history.val_loss))
    assert history.epochs == best + 6
    assert model.evaluate(x[::2], y[::2])[0] == pytest.approx(min(history.val_loss), rel=1e-6)
    assert model.steps == history.steps[best]


@pytest.mark.parametrize("monitor", ["val_accuracy", "accuracy", "loss"])
def test_early_stopping_monitors_what_it_is_told(data, monitor):
    rule = fastbn.EarlyStopping(patience=2, monitor=monitor, min_delta=0.5, restore_best=False)
    history = fit(data, epochs=50, early_stopping=rule, validation_data=data)
    values = np.array(getattr(history, monitor))
    values = values if monitor == "loss" else -values
    assert history.epochs < 50
    best = values[0]
    since = 0
    for value in values[1:]:
        best, since = (value, 0) if value < best - 0.5 else (best, since + 1)
    assert since == 2


def test_early_stopping_without_validation_monitors_the_loss(data):
    model = fastbn.BatchNormMLP(SIZES, lr=0.0)
    assert fit(data, model, epochs=9, early_stopping=3, shuffle=False).epochs == 4


def test_nothing_is_restored_when_the_last_epoch_is_the_best(data):
    model = fastbn.BatchNormMLP(SIZES, lr=0.01)
    fit(data, model, epochs=3, early_stopping=5)
    assert model.steps == 9


def test_chunks_of_steps_do_not_change_the_bits(data, monkeypatch):
    results = []
    for seconds in (0.0, 100.0):
        monkeypatch.setattr(fastbn.fit.loop, "CHUNK_SECONDS", seconds)
        model = fastbn.BatchNormMLP(SIZES, dropout=0.1)
        history = fit(data, model, batch_size=4, schedule="one-cycle")
        results.append((model.params.copy(), history.loss, history.accuracy, history.lr))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


CTRL_C = """
    import os, signal
    import numpy as np, fastbn
    x = np.random.default_rng(0).standard_normal((400, 6)); y = (x[:, 0] > 0).astype(int)
    model = fastbn.BatchNormMLP((6, 9, 2))

    def press(model, history):
        if history.epochs == 3:
            os.kill(os.getpid(), signal.SIGINT)

    history = model.fit(x, y, epochs=1000, batch_size=40, callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print(history.stop_reason, history.epochs, model.steps == history.steps[-1])
"""


def test_ctrl_c_ends_after_the_current_step_with_the_history_kept():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CTRL_C)], capture_output=True, text=True, check=True
    )
    reason, epochs, consistent = done.stdout.split()
    assert reason == "interrupted"
    assert int(epochs) in (3, 4)
    assert consistent == "True"


def test_a_second_ctrl_c_interrupts_at_once(data):
    def press_twice(model, history):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(data, callbacks=[press_twice])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_stays_in_charge(data):
    pressed = []
    previous = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        history = fit(data, callbacks=[lambda *_: os.kill(os.getpid(), signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, previous)
    assert history.stop_reason == "epochs"
    assert len(pressed) == 4


def test_fit_in_another_thread(data):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(data)))
    thread.start()
    thread.join()
    assert results[0].epochs == 4


def test_progress_bar(data, capsys):
    pytest.importorskip("rich", reason="the progress bar needs rich")
    history = fit(data, progress=True)
    err = capsys.readouterr().err
    assert "12/12" in err
    assert f"accuracy {history.accuracy[-1]:.2%}" in err


def test_no_progress_bar_where_there_is_no_terminal(data, capsys):
    fit(data, progress="auto")
    fit(data, progress=False)
    assert capsys.readouterr() == ("", "")


class Plain(io.StringIO):
    """A stream without `isatty`."""

    isatty = None


@pytest.mark.parametrize("progress", ["auto", True])
@pytest.mark.parametrize("stream", [None, "closed", "plain"])
def test_a_fit_needs_no_stderr(data, monkeypatch, capsys, stream, progress):
    """A GUI program has no stderr, and some programs close it."""
    stderr = None if stream is None else Plain()
    if stream == "closed":
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress_module, "_announced", False)
    progress_module.announce_compiling()
    assert progress_module._announced is (stream == "plain")
    if stream == "plain" and progress is True:
        pytest.importorskip("rich", reason="the progress bar needs rich")
    assert fit(data, progress=progress).epochs == 4
    assert capsys.readouterr().out == ""
    if stream == "plain":
        assert ("loss" in stderr.getvalue()) is (progress is True)


class Broken:
    """A stream that fails after some calls of `write`."""

    def __init__(self, error, calls):
        self.error, self.calls = error, calls

    def write(self, text):
        self.calls -= 1
        if self.calls < 0:
            raise self.error

    def flush(self):
        self.write("")


class WithoutFlush:
    def write(self, text):
        return len(text)


BROKEN = {
    "pipe": lambda: Broken(BrokenPipeError(32, "Broken pipe"), 0),
    "pipe, later": lambda: Broken(BrokenPipeError(32, "Broken pipe"), 3),
    "disk": lambda: Broken(OSError(28, "No space left on device"), 2),
    "other": lambda: Broken(RuntimeError("no window"), 0),
    "without flush": WithoutFlush,
    "without write": object,
}


@pytest.mark.parametrize("stream", BROKEN)
def test_a_stderr_that_fails_does_not_end_a_fit(data, monkeypatch, stream):
    pytest.importorskip("rich", reason="the progress bar needs rich")
    monkeypatch.setattr(sys, "stderr", BROKEN[stream]())
    monkeypatch.setattr(progress_module, "_announced", False)
    progress_module.announce_compiling()
    assert fit(data, progress=True).epochs == 4


def test_progress_without_rich_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(fastbn.MissingExtraError, match=r"pip install 'fastbn\[cli\]'"):
        fit(data, progress=True)
    assert fit(data, progress="auto").epochs == 4


def test_patience_counts_epochs_without_a_number(data):
    values = iter((np.nan, 1.0, 0.9, 0.8, np.nan, 0.9, 1))
    rule = fastbn.EarlyStopping(patience=3, monitor="loss", restore_best=False)
    set_loss = [lambda _, history: history.loss.__setitem__(-1, next(values))]
    history = fit(data, epochs=20, early_stopping=rule, callbacks=set_loss)
    assert history.epochs == 7
    assert history.stop_reason == "early_stopping"


def test_the_loss_of_an_epoch_goes_by_the_weights(data):
    weight = np.r_[np.ones(32), np.full(32, 1e-3), np.zeros(33)]
    model, twin = (fastbn.BatchNormMLP(SIZES, lr=0.0) for _ in range(2))
    history = fit(data, model, epochs=1, shuffle=False, sample_weight=weight)
    losses = [
        twin.train_step(data[0][part], data[1][part]) for part in (slice(0, 32), slice(32, 64))
    ]
    assert history.loss[0] == pytest.approx(np.average(losses, weights=[1, 1e-3]), rel=1e-5)


def test_weights_of_minibatches_are_those_of_the_whole(rng):
    """Weights are divided by the largest one of a call; this must not change their ratios."""
    x, y, weight = rng.standard_normal((60, 5)), np.arange(60) % 3, rng.random(60)
    one, other = fastbn.BatchNormMLP((5, 4, 3)), fastbn.BatchNormMLP((5, 4, 3))
    one.partial_fit(x, y, batch_size=20, sample_weight=weight)
    for part in np.split(np.arange(60), 3):
        other.partial_fit(x[part], y[part], sample_weight=weight[part])
    assert np.array_equal(one.params, other.params)
