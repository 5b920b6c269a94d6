"""What is kept from one call to the next, so that short calls cost little more than their work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.kernels import network as kernels
from fastbn.model.inputs import prediction_samples, training_samples
from fastbn.model.measures import BLOCK_NUMBERS

SIZES = (6, 9, 4)


@pytest.fixture
def data(rng):
    return rng.standard_normal((120, 6)).astype(np.float32), rng.integers(0, 4, 120)


def test_settings_are_built_once(data, monkeypatch):
    model = fastbn.BatchNormMLP(SIZES)
    model.train_step(*data)
    monkeypatch.setattr(kernels, "Recipe", lambda **_: pytest.fail("built"))
    model.train_step(*data)
    model.partial_fit(*data, batch_size=50)
    model.predict(data[0])


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.1}, {"momentum": 0.5}, {"eps": 0.1}, {"optimizer": "sgd"}, {"weighted": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_config_counts_in_the_next_call(rng, data, changes):
    models = [fastbn.BatchNormMLP(SIZES) for _ in range(2)]
    weight = rng.uniform(1, 2, 120)
    for model in models:
        model.train_step(*data, sample_weight=weight)
        model.predict(data[0])
    models[0].config = dataclasses.replace(models[0].config, **changes)
    other = fastbn.BatchNormMLP(SIZES, **changes)
    other.restore(models[1].snapshot())
    for model in (*models, other):
        model.train_step(*data, sample_weight=weight)
    same, different, expected = (
        np.concatenate([model.params, model.predict_logits(data[0]).ravel()])
        for model in (models[0], models[1], other)
    )
    assert np.array_equal(same, expected)
    assert not np.array_equal(same, different)


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_python_passes_no_named_tuples(data):
    model = fastbn.BatchNormMLP(SIZES)
    model.partial_fit(*data, batch_size=50)
    model.predict(data[0])
    with pytest.raises(fastbn.DivergenceError):
        model.train_step(np.full((3, 6), 3e38, np.float32) * [[1], [-1], [1]], data[1][:3])
    for kernel in (kernels.train_steps, kernels.infer_logits):
        assert kernel.signatures
        for signature in map(str, kernel.signatures):
            assert "Network(" not in signature
            assert "Predictor(" not in signature


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_number_that_is_not_finite_is_found_in_every_block(value, dtype):
    model = fastbn.BatchNormMLP(SIZES, dtype=dtype)
    rows = 2 * (BLOCK_NUMBERS // 6) + 100
    y = np.arange(rows) % 4
    for row in (0, BLOCK_NUMBERS // 6 - 1, BLOCK_NUMBERS // 6, rows - 1):
        x = np.zeros((rows, 6), dtype)
        x[row, row % 6] = value
        for prepare in (lambda x: training_samples(model, x, y), lambda x: model.predict(x)):
            with pytest.raises(ValueError, match=rf"finite numbers of {dtype}.* in row {row}$"):
                prepare(x)


@pytest.mark.parametrize("label", [-1, 4, 2**40, -(2**63)])
@pytest.mark.parametrize("place", [0, 60, 119])
def test_a_label_that_is_no_class_is_refused(data, label, place):
    model = fastbn.BatchNormMLP(SIZES)
    labels = np.array(data[1], np.int64)
    labels[:2], labels[place] = (0, 3), label
    with pytest.raises(ValueError, match=r"^y: expected labels from 0 to 3, got"):
        model.train_step(data[0], labels)
    assert model.steps == 0


@pytest.mark.parametrize("mode", ["zscore", "minmax"])
def test_a_scaling_that_the_dtype_would_round_is_applied_in_float64(data, mode):
    model = fastbn.BatchNormMLP(SIZES, input_normalization=mode)
    model.partial_fit(*data)
    for part in ("center", "scale"):
        numbers = getattr(model.scaling, part)
        before = numbers[-1]
        assert prediction_samples(model._engine, data[0])[0] is data[0]
        for odd in (before * (1 + 2**-40) + 2**-60, 1e300, np.nan):
            numbers[-1] = odd
            assert model.scaling.in_dtype() is None
        numbers[-1] = before
        assert model.scaling.in_dtype() is not None
