"""Fits that diverge: where they end, what state the model is in, and the errors."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.fit import loop
from fastbn.model.inputs import training_samples
from fastbn.model.measures import ROWS
from fastbn.parallel import team_size

SIZES = (4, 6, 5, 3)
N, BATCH = 40, 8
STEPS = N // BATCH

HUGE = np.finfo(np.float64).max  # a learning rate beyond float32

NAMES = ("params", "m", "v", "running_mean", "running_var", "steps")


def make_data(rng, n=N):
    return rng.uniform(-1, 1, (n, SIZES[0])).astype(np.float32), np.arange(n) % SIZES[-1]


def make(**options):
    return fastbn.BatchNormMLP(SIZES, **{"seed": 3, **options})


def fit(model, x, y, **options):
    return model.fit(
        x, y, **{"epochs": 2, "batch_size": BATCH, "shuffle": False, "progress": False, **options}
    )


def divergence(model, x, y, match=None, **options):
    """Return the error that ends the fit."""
    with pytest.raises(fastbn.DivergenceError, match=match) as caught:
        fit(model, x, y, **options)
    return caught.value


def place(error):
    return error.step, error.layer


def take(model, x, y, steps, weight=None):
    """Take these steps, counted from 0, of a fit without shuffling; return their losses."""
    samples, rows, lrs = training_samples(model, x, y, weight), np.arange(BATCH), [model.config.lr]
    return [
        model._engine.run_steps(
            samples, rows + step % STEPS * BATCH, np.array([0, BATCH]), np.array(lrs)
        )[0][0]
        for step in steps
    ]


def same(model, other):
    """Return whether two models are in the same state, to the bit."""
    return all(np.array_equal(getattr(model, name), getattr(other, name)) for name in NAMES)


def poisoned(rng, step, value=1e38):
    """Return data with one minibatch of finite numbers whose products are not finite."""
    x, y = make_data(rng)
    x[step * BATCH : (step + 1) * BATCH] *= np.float32(value)
    return x, y


EXPLOSIONS = [
    {"optimizer": "sgd", "batch_norm": False, "lr": 1e30},
    {"optimizer": "sgd", "batch_norm": False, "lr": 1e30, "dtype": "float64"},
    {"optimizer": "sgd", "lr": 1e38},
    {"optimizer": "adam", "lr": 1e38},
    {"optimizer": "adam", "lr": 1e30, "batch_norm": False},
    {"optimizer": "rmsprop", "lr": 1e30, "batch_norm": False},
    {"optimizer": "adam", "lr": 1e30, "batch_norm": False, "loss": "squared_error"},
]


def targets_for(model, y):
    return y if model.config.predicts_one_class else np.eye(SIZES[-1])[y]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", EXPLOSIONS)
def test_an_explosion_ends_the_fit_with_the_parameters_before(rng, options, weighted):
    """A second model takes only the steps before; its state is the same, to the bit."""
    model, other = make(**options), make(**options)
    x, y = make_data(rng)
    y = targets_for(model, y)
    weight = rng.uniform(0.5, 2, N) if weighted else None
    error = divergence(model, x, y, "variance is not finite", epochs=200, sample_weight=weight)
    assert error.step >= 1
    assert error.layer.startswith("layers.") or error.layer == "loss"
    assert error.history.epochs == (error.step - 1) // STEPS
    assert np.isfinite(take(other, x, y, range(error.step - 1), weight)).all()
    assert same(model, other)


@pytest.mark.parametrize("options", EXPLOSIONS)
def test_stop_ends_the_fit_and_says_so(rng, options):
    model = make(**options)
    x, y = make_data(rng)
    y = targets_for(model, y)
    calls = []
    history = fit(
        model, x, y, epochs=200, on_divergence="stop", progress=False,
        callbacks=[lambda model, history: calls.append(history.epochs)],
    )  # fmt: skip
    assert history.stop_reason == "diverged"
    assert len(calls) == max(history.steps, default=0) // STEPS < 200
    assert np.isfinite(history.loss).all()


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("step", range(STEPS))
def test_a_poisoned_minibatch_is_left_out(rng, step, batch_norm):
    """The result has the same bits as a loop without this minibatch."""
    x, y = poisoned(rng, step)
    model, other = make(batch_norm=batch_norm), make(batch_norm=batch_norm)
    history = fit(model, x, y, epochs=3, on_divergence="skip")
    assert history.skipped == [1 + step + epoch * STEPS for epoch in range(3)]
    assert history.epochs == 3
    assert history.stop_reason == "epochs"
    assert np.isfinite(history.loss).all()
    take(other, x, y, [k for k in range(3 * STEPS) if k % STEPS != step])
    assert same(model, other)
    assert np.isfinite(model.predict_logits(x[:1] / 1e38)).all()


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("how", ["raise", "stop"])
def test_a_poisoned_minibatch_ends_the_fit(rng, step, how):
    """The model is as it was before that minibatch."""
    x, y = poisoned(rng, step)
    model, other = make(), make()
    if how == "raise":
        error = divergence(model, x, y, on_divergence=how)
        assert place(error) == (step + 1, "layers.0")
        assert (error.history.skipped, error.history.stop_reason) == ([], "diverged")
    else:
        assert fit(model, x, y, on_divergence=how).stop_reason == "diverged"
    take(other, x, y, range(step))
    assert same(model, other)


def test_a_variance_that_the_dtype_does_not_hold_is_a_divergence(rng):
    """The loss is finite, since batch norm divides by it; the running variance would not be."""
    x, y = poisoned(rng, 2, 1e25)
    model, other = make(), make()
    assert place(divergence(model, x, y)) == (3, "layers.0")
    history = fit(model := make(), x, y, epochs=1, on_divergence="skip")
    assert history.skipped == [3]
    take(other, x, y, [0, 1, 3, 4])
    assert same(model, other)
    x, y = make_data(rng)
    assert np.isfinite(fit(make(dtype="float64"), x * 1e25, y).loss).all()


def test_a_loss_that_the_dtype_does_not_hold_is_a_divergence(rng):
    x, y = make_data(rng)
    targets = np.eye(SIZES[-1])[y] * 1e30
    model = make(loss="squared_error")
    before = model.params.copy()
    assert place(divergence(model, x, targets)) == (1, "loss")
    assert np.array_equal(model.params, before)
    wide = make(loss="squared_error", dtype="float64")
    with pytest.warns(UserWarning, match="worse than the mean of its targets"):
        assert np.isfinite(fit(wide, x, targets).loss).all()


@pytest.mark.parametrize("skips", [False, True])
def test_a_gradient_whose_square_is_beyond_the_dtype_is_refused(rng, skips):
    """With gradients of 1e21 and a loss of 1e29, Adam would never change a parameter again."""
    x, y = make_data(rng)
    x[2 * BATCH : 3 * BATCH] *= np.float32(1e12)
    targets = np.eye(SIZES[-1])[y] * 1.0
    targets[2 * BATCH : 3 * BATCH] *= 1e11
    options = {"loss": "squared_error", "batch_norm": False}
    model, other = make(**options), make(**options)
    take(other, x, targets, range(2))
    if skips:
        with pytest.warns(UserWarning, match="the fit ends worse than the mean"):
            assert fit(model, x, targets, epochs=1, on_divergence="skip").skipped == [3]
        take(other, x, targets, [3, 4])
    else:
        error = divergence(model, x, targets, "or too large, first in layers.0", epochs=1)
        assert place(error) == (3, "layers.0")
    assert same(model, other)
    assert model._engine.is_finite()


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_last_update_is_checked_too(rng, batch_norm):
    """No later step can be refused, and the update is not undone."""
    x, y = make_data(rng)
    model = make(optimizer="sgd", batch_norm=batch_norm, lr=0.01)
    error = divergence(
        model, x, y, "after step 10, the last one",
        schedule=lambda step: HUGE if step == 2 * STEPS - 1 else 0.01,
    )  # fmt: skip
    assert (*place(error), error.is_refused) == (2 * STEPS, "layers.0", False)
    assert error.history.stop_reason == "diverged"
    assert model.steps == 2 * STEPS


def test_skip_gives_up_after_ten_refused_steps_in_a_row(rng):
    x, y = make_data(rng, 30 * BATCH)
    x[5 * BATCH : 20 * BATCH] *= np.float32(1e38)
    model, other = make(), make()
    error = divergence(model, x, y, on_divergence="skip")
    assert error.step == 6 + loop.MOST_SKIPPED
    assert error.history.skipped == list(range(6, 6 + loop.MOST_SKIPPED))
    samples = training_samples(other, x, y, None)
    other._engine.run_steps(samples, np.arange(len(x)), np.arange(6) * BATCH, np.full(5, 1e-3))
    assert same(model, other)


def test_skip_goes_on_if_refused_steps_are_not_in_a_row(rng):
    x, y = make_data(rng, 30 * BATCH)
    for step in range(0, 30, 2):
        x[step * BATCH : (step + 1) * BATCH] *= np.float32(1e38)
    history = fit(make(), x, y, on_divergence="skip")
    assert history.skipped == [1 + step for step in range(0, 60, 2)]
    assert np.isfinite(history.loss).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"batch_norm": False}, {"dtype": "float64"}])
def test_nan_in_unchecked_data_is_found_by_the_loss(rng, bad, options):
    x, y = make_data(rng)
    x[17, 1] = bad
    model, other = make(**options), make(**options)
    error = divergence(model, x, y, check_finite=False)
    assert place(error) == (3, "inputs")
    assert "layers" not in str(error)
    history = fit(model := make(**options), x, y, check_finite=False, on_divergence="skip")
    assert history.skipped == [3, 8]
    x[17, 1] = 0
    take(other, x, y, [0, 1, 3, 4] * 1)
    assert not np.array_equal(model.params, other.params)
    assert np.isfinite(model.predict_logits(x)).all()


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("options", [{}, {"batch_norm": False}, {"batch_norm_output": False}])
def test_the_layer_is_named(rng, layer, bad, options):
    x, y = make_data(rng)
    model = make(**options)
    weight = dict(model.named_parameters())[f"layers.{layer}.weight"]
    weight[1] = bad
    error = divergence(model, 100 * np.abs(x), y, f"layers.{layer}")
    assert place(error) == (1, f"layers.{layer}")


def test_skip_works_with_early_stopping_validation_and_the_bar(rng, capsys):
    pytest.importorskip("rich")
    x, y = make_data(rng)
    good = x[:BATCH].copy(), y[:BATCH]
    x[3] *= np.float32(1e38)
    history = fit(
        make(), x, y, epochs=6, on_divergence="skip", progress=True, validation_data=good,
        early_stopping=fastbn.EarlyStopping(patience=6), sample_weight=np.ones(N), shuffle=True,
        until_accuracy=1.0, schedule="cosine",
    )  # fmt: skip
    assert np.isfinite(history.loss).all()
    assert np.isfinite(history.val_loss).all()
    assert history.skipped
    assert "nan" not in capsys.readouterr().err


def test_an_epoch_of_skipped_minibatches_has_no_loss(rng):
    x, y = make_data(rng)
    history = fit(make(), x * np.float32(1e38), y, epochs=1, on_divergence="skip")
    assert history.skipped == list(range(1, STEPS + 1))
    assert np.isnan(history.loss).all()


@pytest.mark.parametrize("bad", [3, STEPS - 1, 2 * STEPS + 1, 3 * STEPS - 2])
@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_a_finite_update_is_not_undone(rng, monkeypatch, bad, chunk):
    """It is so large that the next step is refused; the model is as it was before that step."""
    monkeypatch.setattr(loop._Chunk, "end", lambda self, steps: setattr(self, "steps", chunk))
    x, y = make_data(rng)
    options = {"optimizer": "sgd", "batch_norm": False}
    model, other = make(lr=0.01, **options), make(lr=0.01, **options)
    error = divergence(
        model, x, y, "The previous update may have caused this", epochs=3,
        schedule=lambda step: 1e30 if step == bad else 0.01,
    )  # fmt: skip
    assert (error.step, error.is_refused) == (bad + 2, True)
    take(other, x, y, range(bad))
    other.config = make(lr=1e30, **options).config
    take(other, x, y, [bad])
    assert same(model, other)
    assert model._engine.is_finite()


@pytest.mark.parametrize("how", ["stop", "raise"])
def test_a_model_whose_first_step_is_refused_can_predict(rng, how):
    x, y = make_data(rng)
    targets = np.eye(SIZES[-1])[y] * 1e30
    model = make(loss="squared_error", input_normalization="zscore")
    if how == "stop":
        assert fit(model, x, targets, on_divergence=how).stop_reason == "diverged"
    else:
        with pytest.raises(fastbn.DivergenceError):
            fit(model, x, targets)
    assert model.steps == 0
    assert np.isfinite(model.predict_logits(x)).all()


def test_changes_by_callbacks_are_kept(rng):
    x, y = make_data(rng)
    options = {"optimizer": "sgd", "batch_norm": False, "lr": 0.01}
    model, other = make(**options), make(**options)

    def halve(model, history):
        model.params *= 0.5

    def poison(model, history):
        if history.epochs == 2:
            x[BATCH : 2 * BATCH] *= np.float32(1e38)

    clean = x.copy()
    fit(model, x, y, epochs=4, on_divergence="stop", callbacks=[halve, poison])
    for _ in range(2):
        take(other, clean, y, range(STEPS))
        halve(other, None)
    take(other, x, y, [0])
    assert same(model, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("how", ["stop", "raise", "skip"])
def test_a_fit_that_diverges_goes_back_to_its_best_epoch(rng, how, optimizer):
    x, y = make_data(rng)
    options = {"optimizer": optimizer, "batch_norm": False, "lr": 0.01}
    model, other = make(**options), make(**options)

    def schedule(step):
        return 1e30 if step == 2 * STEPS + 1 else 10.0 if step >= 2 * STEPS else 0.01

    options = {
        "epochs": 6, "on_divergence": how, "schedule": schedule,
        "early_stopping": fastbn.EarlyStopping(monitor="loss"),
    }  # fmt: skip
    if how == "stop":
        history = fit(model, x, y, **options)
        assert history.steps == [STEPS, 2 * STEPS, 2 * STEPS + 2]
        assert history.loss[1] < history.loss[2]
    else:
        error = divergence(model, x, y, "as it was after the best epoch", **options)
        assert (error.is_refused, error.is_restored) == (True, True)
        assert pickle.loads(pickle.dumps(error)).is_restored
        history = error.history
        assert error.step == 2 * STEPS + (3 if how == "raise" else 3 + loop.MOST_SKIPPED)
    assert history.stop_reason == "diverged"
    take(other, x, y, range(2 * STEPS))
    assert history.loss[1] < history.loss[0]
    assert same(model, other)


@pytest.mark.parametrize("rule", [None, fastbn.EarlyStopping(monitor="loss", restore_best=False)])
def test_an_error_says_if_no_epoch_is_restored(rng, rule):
    x, y = make_data(rng)
    error = divergence(
        make(optimizer="sgd", batch_norm=False), x, y, "as it was before that step",
        early_stopping=rule, schedule=lambda step: 1e30 if step == STEPS + 1 else 1e-3,
    )  # fmt: skip
    assert (error.is_refused, error.is_restored) == (True, False)


def test_the_part_of_an_epoch_before_a_refused_step_is_not_the_best(rng):
    """Its losses are the lowest, but its last update may have caused the divergence."""
    x, y = make_data(rng)
    options = {"optimizer": "sgd", "batch_norm": False, "lr": 0.01}
    model, other = make(**options), make(**options)
    history = fit(
        model, x, y, on_divergence="stop", early_stopping=fastbn.EarlyStopping(monitor="loss"),
        schedule=lambda step: 1e30 if step == STEPS + 1 else 0.01,
    )  # fmt: skip
    assert history.steps == [STEPS, STEPS + 2]
    assert history.loss[1] < history.loss[0]
    take(other, x, y, range(STEPS))
    assert same(model, other)


def test_infinities_that_the_loss_does_not_show_are_not_written_to_a_checkpoint(rng, tmp_path):
    """One row makes a variance overflow and is always skipped; the checkpoint can be loaded."""
    x, y = make_data(rng)
    x[17] = 3e19
    model = make(lr=0.01)
    fit(model, x, y, epochs=3, on_divergence="skip", checkpoint=tmp_path / "c", checkpoint_every=2)
    assert model._engine.is_finite()
    loaded = fastbn.BatchNormMLP.load(tmp_path / "c")
    assert np.array_equal(loaded.params, model.params)


def test_an_error_of_a_divergence_travels_between_processes(rng):
    x, y = make_data(rng)
    error = divergence(make(optimizer="sgd", batch_norm=False, lr=1e38), x, y)
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.step, twin.history) == (str(error), error.step, error.history)
    assert twin.is_refused


@pytest.mark.parametrize("chunk", [1, 2, 3, 16, 64])
@pytest.mark.parametrize("lr", [1e30, 300.0])
def test_when_skipping_ends_does_not_depend_on_the_clock(rng, monkeypatch, lr, chunk):
    """At this rate every step diverges: ten are skipped, however long the calls are."""
    monkeypatch.setattr(loop._Chunk, "end", lambda self, steps: setattr(self, "steps", chunk))
    x, y = make_data(rng, 40 * BATCH)
    model = make(optimizer="sgd", batch_norm=False, lr=lr)
    error = divergence(model, x, y, on_divergence="skip")
    last = error.history.skipped[-loop.MOST_SKIPPED :]
    assert last == list(range(error.step - loop.MOST_SKIPPED, error.step))
    if lr == 1e30:  # the first update ruins the parameters
        assert error.step == 2 + loop.MOST_SKIPPED


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_an_epoch_whose_last_step_explodes_is_not_the_best(rng, how):
    x, y = make_data(rng)
    model = make(optimizer="sgd", batch_norm=False)
    rule = fastbn.EarlyStopping(patience=9, monitor="val_loss", restore_best=True)
    history = fit(
        model, x, y, epochs=3, on_divergence=how, early_stopping=rule, validation_data=(x, y),
        schedule=lambda step: 1e30 if step == 2 * STEPS - 1 else 1e-9,
    )  # fmt: skip
    assert history.stop_reason == ("diverged" if how == "stop" else "epochs")
    assert np.isfinite(model.evaluate(x, y)[0])


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("end", ["callback", "until_accuracy", "epochs"])
@pytest.mark.parametrize("how", ["raise", "stop", "skip"])
def test_the_last_update_is_checked_however_the_fit_ends(rng, how, end, batch_norm):
    x, y = make_data(rng)
    model = make(optimizer="sgd", batch_norm=batch_norm)
    options = {
        "callback": {"callbacks": [lambda model, history: True]},
        "until_accuracy": {"until_accuracy": 0.0},
        "epochs": {"epochs": 1},
    }[end]
    options["schedule"] = lambda step: HUGE if step == STEPS - 1 else 0.01
    if how == "stop":
        history = fit(model, x, y, on_divergence=how, **options)
    else:
        error = divergence(model, x, y, on_divergence=how, **options)
        assert (error.step, error.is_refused) == (STEPS, False)
        history = error.history
    assert history.stop_reason == "diverged"
    assert history.skipped == []
    assert model.steps == STEPS


@pytest.mark.parametrize("mode", ["zscore", "minmax"])
def test_a_scaling_of_nan_is_refused(rng, mode):
    x, y = make_data(rng)
    clean = x.copy()
    x[7, 2] = np.nan
    model = make(input_normalization=mode)
    before = pickle.dumps(model)
    with pytest.raises(
        ValueError, match="X: expected finite numbers to scale, got NaN in feature 2"
    ):
        fit(model, x, y, check_finite=False, on_divergence="skip")
    assert pickle.dumps(model) == before
    fit(model, clean, y)


def test_variances_that_overflow_only_when_added_are_no_divergence(rng):
    x = rng.standard_normal((64, 4)).astype(np.float32) * np.float32(3e18)
    model = fastbn.BatchNormMLP((4, 64, 3))
    assert np.isfinite(model.fit(x, np.arange(64) % 3, epochs=2, batch_size=32).loss).all()


def test_the_rate_of_an_epoch_is_that_of_its_last_step(rng, monkeypatch):
    x, y = make_data(rng)

    def poison(model, history):
        x[2 * BATCH : 3 * BATCH] = 1e38

    for chunk in (1, 64):
        x[2 * BATCH : 3 * BATCH] = 1
        monkeypatch.setattr(
            loop._Chunk, "end", lambda self, steps, chunk=chunk: setattr(self, "steps", chunk)
        )
        history = fit(
            make(optimizer="sgd", batch_norm=False), x, y, on_divergence="stop",
            schedule=lambda step: (step + 1) / 1000, callbacks=[poison],
        )  # fmt: skip
        assert history.lr == [STEPS / 1000, (STEPS + 2) / 1000]


# -- checks of X -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("row", [0, 1, ROWS - 1, ROWS, 2 * ROWS + 17])
def test_the_row_is_named(rng, dtype, bad, row):
    x = rng.standard_normal((2 * ROWS + 18, SIZES[0])).astype(dtype)
    x[row, 2] = bad
    y = np.arange(len(x)) % 3
    model = make()
    before = model.params.copy()
    calls = {
        "fit": lambda: fit(model, x, y),
        "partial_fit": lambda: model.partial_fit(x, y),
        "train_step": lambda: model.train_step(x, y),
        "predict": lambda: model.predict(x),
        "evaluate": lambda: model.evaluate(x, y),
        "validation": lambda: fit(
            model, x[:1] * 0 + np.ones((9, 4)), y[:9], validation_data=(x, y)
        ),
    }
    if row == 0:
        del calls["validation"]
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"finite numbers of float32, got others in row {row}"):
            call()
        assert np.array_equal(model.params, before), name


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint16, bool])
def test_whole_numbers_are_finite(rng, dtype):
    x = rng.integers(0, 2, (N, SIZES[0])).astype(dtype)
    assert np.isfinite(fit(make(), x, np.arange(N) % 3).loss).all()


def test_float64_beyond_float32_is_named(rng):
    x = rng.standard_normal((N, SIZES[0]))
    x[5, 1] = 1e100
    y = np.arange(N) % 3
    with pytest.raises(ValueError, match="row 5"):
        fit(make(), x, y)
    wide = make(dtype="float64", input_normalization="zscore")
    assert np.isfinite(fit(wide, x, y).loss).all()


def test_the_check_takes_little_memory(rng):
    x = rng.standard_normal((200_000, SIZES[0])).astype(np.float32)
    model, y = make(), np.zeros(len(x), np.int64)
    tracemalloc.start()
    try:
        training_samples(model, x, y, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 10 + y.nbytes  # labels are copied


@pytest.mark.parametrize("mode", ["zscore", "minmax"])
def test_ranges_that_cannot_be_scaled_are_refused(rng, mode):
    x, y = make_data(rng)
    x[:, 2] = np.where(np.arange(N) % 2 == 0, 3e38, -3e38)
    with pytest.raises(ValueError, match="to scale, got .* in feature 2"):
        fit(make(input_normalization=mode), x, y)


@pytest.mark.skipif(JIT_DISABLED, reason="Python computes with denormals")
@pytest.mark.parametrize("mode", ["zscore", "minmax"])
def test_denormal_features_are_constant(rng, mode):
    x, y = make_data(rng)
    x[:, 2] *= np.float32(1e-40)
    model = make(input_normalization=mode)
    assert np.isfinite(fit(model, x, y).loss).all()
    assert model.scaling.scale[2] == 1


@pytest.mark.parametrize("name", ["params", "m", "v", "running_mean", "running_var"])
def test_is_finite_checks_every_buffer(name):
    model = make()
    assert model._engine.is_finite()
    getattr(model, name)[-1] = np.inf
    assert not model._engine.is_finite()


@pytest.mark.parametrize("how", ["skip", "stop"])
def test_a_score_from_nan_parameters_is_not_the_best(rng, how):
    """All samples have class 0, which NaN also predicts."""
    x, y = make_data(rng)
    zeros = np.zeros(len(x), int)
    model = make()
    history = fit(
        model, x, y, epochs=4, on_divergence=how, validation_data=(x, zeros),
        schedule=lambda step: 1e37 if step == 9 else 1e-4,
        early_stopping=fastbn.EarlyStopping(monitor="val_accuracy"),
    )  # fmt: skip
    assert np.isnan(history.val_loss[1])
    assert history.val_accuracy[1] == 1.0
    assert np.isfinite(model.evaluate(x, zeros)).all()


@pytest.mark.parametrize("how", ["skip", "stop", "raise"])
def test_a_callback_that_breaks_the_model_after_the_last_step(rng, how):
    x, y = make_data(rng)
    model = make()

    def break_it(model, history):
        if history.epochs == 2:
            model.params[:] = np.nan

    if how == "stop":
        history = fit(model, x, y, on_divergence=how, callbacks=[break_it])
        assert history.stop_reason == "diverged"
    else:
        with pytest.raises(fastbn.DivergenceError, match=f"after step {2 * STEPS}"):
            fit(model, x, y, on_divergence=how, callbacks=[break_it])


# -- all threads make the same decision ------------------------------------------------------------

# Factors for the third minibatch and its targets, and options of a network that refuses it: the
# loss, a variance or the gradient's norm is not finite, or the square of an entry is not.
POISONS = {
    "inputs": (1e38, 1, {}),
    "variance": (1e25, 1, {}),
    "variance, weighted": (1e25, 1, {"weighted": True}),
    "loss": (1, 1e30, {"loss": "squared_error"}),
    "gradient": (1e12, 1e11, {"loss": "squared_error", "batch_norm": False}),
    "gradient of float64": (
        1e100, 1e100, {"loss": "squared_error", "batch_norm": False, "dtype": "float64"},
    ),
    "norm of float64": (
        1e100, 1e100,
        {"loss": "squared_error", "batch_norm": False, "dtype": "float64", "max_norm": 1.0},
    ),
}  # fmt: skip

# Few features; many, with each member keeping its own; data split by rows, or by panels.
SHAPES = [SIZES, (4, 130, 5, 3), (200, 20, 3), (256, 20, 3)]


@pytest.mark.skipif(JIT_DISABLED, reason="teams of threads")
@pytest.mark.filterwarnings("ignore:the fit ends worse than the mean")
@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("poison", POISONS)
def test_all_threads_refuse_the_same_step(rng, monkeypatch, poison, sizes):
    """A fit that skips a step has the same bits as one without it, on 1 to 3 threads."""
    factor, target_factor, options = POISONS[poison]
    options = {"seed": 3, "dropout": 0.3, "optimizer": "adam", **options}
    x, y = (
        rng.uniform(-1, 1, (N, sizes[0])).astype(options.get("dtype", "float32")),
        make_data(rng)[1],
    )
    other, bad = fastbn.BatchNormMLP(sizes, **options), slice(2 * BATCH, 3 * BATCH)
    y = np.eye(3)[y] if "loss" in options else y
    weight = rng.uniform(0.5, 2, N) if "weighted" in options else None
    take(other, x, y, [k for k in range(3 * STEPS) if k % STEPS != 2], weight)
    x[bad] *= x.dtype.type(factor)
    y[bad] *= target_factor
    for threads in (1, 2, 3):
        monkeypatch.setattr(
            team_size.TrainingTeam, "size", lambda self, steps, n=threads: (n, None)
        )
        model = fastbn.BatchNormMLP(sizes, **options)
        history = fit(model, x, y, epochs=3, on_divergence="skip", sample_weight=weight)
        assert history.skipped == [3, 3 + STEPS, 3 + 2 * STEPS]
        assert same(model, other)
        model = fastbn.BatchNormMLP(sizes, **options)
        assert place(divergence(model, x, y, sample_weight=weight)) == (
            3, "loss" if poison == "loss" else "layers.0"
        )  # fmt: skip
        assert model.steps == 2


@pytest.mark.filterwarnings("ignore:the fit ends worse than the mean")
def test_a_gradient_that_is_clipped_is_not_refused(rng):
    x, y = make_data(rng)
    x[2 * BATCH : 3 * BATCH] *= np.float32(1e12)
    targets = np.eye(SIZES[-1])[y] * 1.0
    model = make(loss="squared_error", batch_norm=False, max_norm=1.0)
    assert fit(model, x, targets, epochs=1, on_divergence="skip").skipped == []
    assert model.steps == STEPS
    assert model._engine.is_finite()


def test_a_skipped_step_does_not_count_in_a_weighted_loss(rng):
    """The loss of an epoch is the weighted mean over the steps that were not skipped."""
    x, y = poisoned(rng, 1)
    weight = rng.uniform(0.5, 2, N)
    model, other = make(), make()
    history = fit(model, x, y, epochs=1, on_divergence="skip", sample_weight=weight)
    losses = take(other, x, y, (0, 2, 3, 4), weight)
    shares = weight.reshape(STEPS, BATCH).sum(axis=1)[[0, 2, 3, 4]]
    assert history.loss[0] == pytest.approx(np.average(losses, weights=shares), rel=1e-6)
    assert same(model, other)


CALLS = {
    "train_step": lambda model, x, y: model.train_step(x[16:24], y[16:24]),
    "partial_fit": lambda model, x, y: model.partial_fit(x, y, batch_size=BATCH),
    "run_steps": lambda model, x, y: model._engine.run_steps(
        training_samples(model, x, y, None), np.arange(N), np.arange(STEPS + 1) * BATCH,
        np.full(STEPS, 1e-3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_calls_without_a_fit_raise_as_a_fit_does(rng, name):
    x, y = poisoned(rng, 2)
    model, other = make(), make()
    done = 0 if name == "train_step" else 2
    with pytest.raises(fastbn.DivergenceError) as caught:
        CALLS[name](model, x, y)
    assert place(caught.value) == (done + 1, "layers.0")
    assert caught.value.history.epochs == 0
    take(other, x, y, range(done))
    assert same(model, other)


@pytest.mark.parametrize("refused", [0, 3])
def test_take_steps_ends_at_the_refused_step_beyond_the_limit(rng, refused):
    """A call ends at the refused step beyond the limit; refused steps before the call count."""
    x, y = make_data(rng, 20 * BATCH)
    x[4 * BATCH : 8 * BATCH] *= np.float32(1e38)
    x[9 * BATCH : 17 * BATCH] *= np.float32(1e38)
    model = make()
    samples = training_samples(model, x, y, None)
    order, bounds, lrs = np.arange(len(x)), np.arange(21) * BATCH, np.full(20, 1e-3)
    bad = np.r_[4:8, 9:17]
    losses, correct = model._engine.take_steps(samples, order, bounds, lrs, 5, refused)
    assert np.array_equal(np.flatnonzero(np.isnan(losses)), bad[bad < 15])
    assert losses.size == correct.size == 15
    assert model.steps == 5
    losses, _ = model._engine.take_steps(samples, order, bounds[4:], lrs[4:], 5, refused)
    assert losses.size == (11 if refused == 0 else 3)
