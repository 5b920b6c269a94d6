"""Unusual but valid calls give no warning, and the expected result."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn

X = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3
CONSTANT = np.concatenate([X[:, :3], np.full((12, 1), 7, np.float32)], axis=1)
EMPTY = np.zeros((0, 4), np.float32)
ONES = np.ones(4, np.float32)
VAST = np.where(np.arange(12).reshape(4, 3) % 4 == 0, 1e30, -1e30).astype(np.float32)


def with_one(value):
    x = X.copy()
    x[0, 0] = value
    return x


def softmax(x, labels, **options):
    return fastbn.softmax_cross_entropy(x, labels, **options)


# Results that have to be finite.
FINITE = {
    "two samples": lambda: fastbn.batch_norm(X[:2]),
    "a mask of nothing": lambda: fastbn.batch_norm(np.ma.MaskedArray(X)),
    "a list": lambda: fastbn.batch_norm(X.astype(float).tolist()),
    "eps=0": lambda: fastbn.batch_norm(X, eps=0),
    "a negative slope": lambda: fastbn.batch_norm(X, activation="leaky_relu", negative_slope=-1),
    "nan in gamma": lambda: fastbn.batch_norm(X, np.array([np.nan, 1, 1, 1]))[0][:, 1:],
    "squares that overflow": lambda: fastbn.batch_statistics(X * np.float32(1e18))[0],
    "labels of bytes": lambda: softmax(X, Y.astype(np.uint8))[0],
    "vast logits": lambda: softmax(VAST, np.arange(4) % 3),
    "tiny weights": lambda: softmax(X, Y, sample_weight=np.full(12, 1e-300)),
    "vast logits, sigmoid": lambda: fastbn.sigmoid_cross_entropy(VAST, VAST > 0),
    "a deviation of 0": lambda: fastbn.standardize(X, mean=ONES, std=ONES * 0),
    "folded with eps=0": lambda: fastbn.fold_batch_norm(X.T, *[ONES] * 4, eps=0),
}


@pytest.mark.parametrize("case", FINITE)
def test_the_result_is_finite(case):
    result = FINITE[case]()
    for array in result if isinstance(result, tuple) else [result]:
        assert np.isfinite(array).all()


def test_a_constant_feature():
    y, mean, _ = fastbn.batch_norm(CONSTANT, ONES, ONES * 3)
    assert (y[:, 3] == 3).all()
    assert mean[3] == 7
    assert (fastbn.min_max_scale(CONSTANT, feature_range=(-1, 1))[0][:, 3] == -1).all()
    assert (fastbn.standardize(CONSTANT)[0][:, 3] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_affects_only_its_feature(value):
    y, mean, rstd = fastbn.batch_norm(with_one(value))
    assert not np.isfinite(y[:, 0]).all()
    for array in (y[:, 1:], mean[1:], rstd[1:]):
        assert np.isfinite(array).all()


def test_a_result_half_over_its_input():
    memory = np.zeros((18, 4), np.float32)
    memory[:12] = X
    y, *_ = fastbn.batch_norm(memory[:12], out=memory[6:])
    assert np.array_equal(y, fastbn.batch_norm(X)[0])


def test_few_samples_or_classes():
    assert fastbn.batch_norm_inference(EMPTY, ONES, ONES).shape == (0, 4)
    assert (fastbn.batch_statistics(X[:1])[1] == 0).all()
    assert softmax(X[:, :1], np.zeros(12, int))[0] == 0
    mean, var = np.zeros(2), np.ones(2)
    fastbn.update_running_statistics(mean, var, np.ones(2), np.zeros(2), 1, momentum=1.0)
    assert np.array_equal(mean, [1, 1])
    assert np.array_equal(var, [0, 0])


def test_unusual_targets_and_weights():
    gradient = softmax(X, Y, sample_weight=np.arange(12))[1]
    assert np.array_equal(gradient[0], np.zeros(4))
    assert abs(fastbn.squared_error(X * 0, np.ones((12, 4), int))[0] - 2) < 1e-6
    assert np.isnan(fastbn.squared_error(X, with_one(np.nan))[0])


def test_steps_of_unusual_sizes():
    def stepped(shape, **options):
        """Return parameters after one step of Adam, starting with parameters and gradients of 1."""
        param, grad, m, v = np.ones((4, *shape))
        fastbn.adam_step(param[...], grad[...], m[...], v[...], **{"step": 1} | options)
        return param

    assert stepped((0,)).size == 0
    assert abs(stepped(()) - 1) < 2e-3
    assert (stepped((3,), lr=0) == 1).all()
    assert np.isfinite(stepped((3,), step=2**53)).all()
