"""Networks for yes-or-no outputs and for regression: targets, predictions, scores, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastbn
from fastbn.model.config import LATER_FIELDS, ModelConfig
from fastbn.model.inputs import training_samples

SIGMOID, SQUARED = "sigmoid_cross_entropy", "squared_error"


def make_data(rng, n=200):
    x = rng.standard_normal((n, 4))
    return x, np.c_[x[:, 0] - x[:, 1], x[:, 2] ** 2]


def test_regression(rng):
    x, y = make_data(rng)
    model = fastbn.BatchNormMLP((4, 32, 2), loss=SQUARED, lr=0.01)
    history = model.fit(x, y, epochs=60, batch_size=32, validation_data=(x, y))
    loss, r2 = model.evaluate(x, y)
    errors = (model.predict(x) - y) ** 2
    assert loss == pytest.approx(errors.sum(axis=1).mean() / 2, rel=1e-5)
    assert r2 == pytest.approx((1 - errors.mean(axis=0) / y.var(axis=0)).mean(), rel=1e-5)
    assert r2 > 0.9
    assert history.val_r2[-1] == r2
    assert len(history.val_r2) == len(history.val_loss) == 60
    assert history.accuracy == history.val_accuracy == []


def test_r2_of_constant_targets(rng):
    x, _ = make_data(rng)
    model = fastbn.BatchNormMLP((4, 1), loss=SQUARED)
    model.params[:] = 0
    assert model.evaluate(x, np.zeros(200)) == (0.0, 1.0)
    assert model.evaluate(x, np.ones(200)) == (pytest.approx(0.5), 0.0)


def test_several_yes_or_no(rng):
    x, y = make_data(rng)
    y = y > [0, 1]
    model = fastbn.BatchNormMLP((4, 32, 2), loss=SIGMOID, lr=0.01)
    history = model.fit(x, y, epochs=60, batch_size=32, validation_data=(x, y))
    loss, accuracy = model.evaluate(x, y)
    p = model.predict_proba(x)
    expected = -np.where(y, np.log(p), np.log1p(-p)).sum(axis=1).mean()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert accuracy == (model.predict(x) == y).all(axis=1).mean() > 0.9
    assert history.val_accuracy[-1] == accuracy


def test_one_output_takes_a_vector_too(rng):
    x, y = make_data(rng)
    for loss, target in ((SQUARED, y[:, 0]), (SIGMOID, y[:, 0] > 0)):
        first, second = (fastbn.BatchNormMLP((4, 5, 1), loss=loss) for _ in range(2))
        first.train_step(x, target)
        second.train_step(x, target[:, None])
        assert np.array_equal(first.params, second.params)
        assert first.predict(x).shape == (200, 1)


def test_the_output_layer_is_not_normalized():
    for loss in (SIGMOID, SQUARED):
        names = dict(fastbn.BatchNormMLP((4, 5, 3), loss=loss).named_parameters())
        assert "layers.0.gamma" in names
        assert "layers.1.bias" in names
        assert "layers.1.gamma" not in names


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (SQUARED, np.ones(6), r"y: expected shape \(6, 2\), got \(6,\)"),
        (SQUARED, np.full((6, 2), np.nan), "y: expected finite numbers of float32"),
        (SQUARED, np.full((6, 2), 1e300), "y: expected finite numbers of float32"),
        (SQUARED, np.full((6, 2), "a"), "y: expected numbers, got dtype"),
        (SIGMOID, np.full((6, 2), 2), "y: expected numbers from 0 to 1, got 2 to 2"),
        (SIGMOID, np.full((6, 2), -0.5), "y: expected numbers from 0 to 1, got -0.5 to -0.5"),
    ],
)
def test_targets_that_do_not_fit(loss, y, message):
    model = fastbn.BatchNormMLP((3, 4, 2), loss=loss)
    before = model.params.copy()
    with pytest.raises((TypeError, ValueError), match=message):
        model.train_step(np.ones((6, 3)), y)
    assert np.array_equal(model.params, before)
    assert model.steps == 0


def test_what_a_loss_does_not_go_with(rng):
    x, y = make_data(rng)
    with pytest.raises(ValueError, match="label_smoothing: expected 0 with loss='squared_error'"):
        fastbn.BatchNormMLP((4, 2), loss=SQUARED, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"layer_sizes\[-1\]: expected an integer of at least 2"):
        fastbn.BatchNormMLP((4, 1))
    with pytest.raises(ValueError, match="loss: expected one of"):
        fastbn.BatchNormMLP((4, 2), loss="hinge")
    model = fastbn.BatchNormMLP((4, 2), loss=SQUARED)
    with pytest.raises(ValueError, match="until_accuracy: expected None with loss='squared_error'"):
        model.fit(x, y, epochs=1, batch_size=10, until_accuracy=0.9)
    stopping = fastbn.EarlyStopping(monitor="accuracy")
    with pytest.raises(ValueError, match="expected to monitor the loss or r2, got 'accuracy'"):
        model.fit(x, y, epochs=1, batch_size=10, early_stopping=stopping)
    stopping = fastbn.EarlyStopping(monitor="val_r2")
    model = fastbn.BatchNormMLP((4, 2), loss=SIGMOID)
    with pytest.raises(ValueError, match="expected to monitor the loss or accuracy, got 'val_r2'"):
        model.fit(x, y > 0, epochs=1, batch_size=10, validation_data=(x, y > 0),
                  early_stopping=stopping)  # fmt: skip


def test_a_file_written_before_there_was_a_choice_of_losses():
    config = fastbn.BatchNormMLP((4, 3, 2)).config
    older = {name: value for name, value in config.to_dict().items() if name not in LATER_FIELDS}
    assert ModelConfig.from_dict(json.loads(json.dumps(older))) == config


def test_pictures_of_regressions(rng, tmp_path):
    pytest.importorskip("matplotlib")
    from fastbn.plotting import plot_history

    x, y = make_data(rng)
    model = fastbn.BatchNormMLP((4, 8, 2), loss=SQUARED, lr=0.02)
    history = model.fit(x, y, epochs=20, batch_size=50, validation_data=(x, y))
    figure = plot_history(history, tmp_path / "regression.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss (squared error)", "R2"]
    assert list(figure.axes[1].lines[0].get_ydata()) == history.val_r2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [SIGMOID, SQUARED])
def test_targets_and_weights_are_copied(rng, dtype, loss):
    """A callback may change or free the caller's memory."""
    x = rng.standard_normal((200, 4)).astype(dtype)
    y, weight = rng.uniform(size=(200, 2)).astype(dtype), np.ones(200, dtype)
    column, read_only = y[:, 0].copy(), y.view()
    read_only.flags.writeable = False
    for given in (y, np.asfortranarray(y), read_only, memoryview(y)):
        model = fastbn.BatchNormMLP((4, 8, 2), loss=loss, dtype=dtype)
        samples = training_samples(model, x, given, weight).arrays
        assert not np.may_share_memory(samples.targets, np.asarray(given))
        assert not np.may_share_memory(samples.weight, weight)
    one = fastbn.BatchNormMLP((4, 8, 1), loss=loss, dtype=dtype)
    assert not np.may_share_memory(training_samples(one, x, column, None).arrays.targets, column)
    other, expected = (
        fastbn.BatchNormMLP((4, 8, 2), loss=loss, dtype=dtype, lr=0.02) for _ in range(2)
    )
    options = {"epochs": 40, "batch_size": 20, "progress": False}
    expected.fit(x, y, **options)
    gone = y.copy()
    other.fit(x, gone, callbacks=[lambda *_: gone.fill(0.25) or None], **options)
    assert np.array_equal(other.params, expected.params)
