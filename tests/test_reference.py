"""The oracle itself, against central finite differences and plain NumPy expressions."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from cases import JIT_DISABLED

from fastbn import reference as ref
from fastbn.options import ElementwiseActivation, Optimizer
from fastbn.reference import mlp

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="the oracle is not compiled: nothing changes")

H = 1e-6


def numeric_gradient(function, x):
    """Return the gradient of a scalar function by central differences."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + H
        above = function()
        x[index] = kept - H
        gradient[index] = (above - function()) / (2 * H)
        x[index] = kept
    return gradient


def assert_gradient(actual, numeric):
    np.testing.assert_allclose(actual, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("layout", "shape"), [("NC", (7, 3)), ("CN", (3, 7)), ("NC", (2, 3, 4))])
def test_batch_norm_gradients(rng, layout, shape, slope):
    x, weights = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, 3))

    def loss():
        return float((ref.batch_norm(x, gamma, beta, 1e-5, slope, layout)[0] * weights).sum())

    _, mean, rstd = ref.batch_norm(x, gamma, beta, 1e-5, slope, layout)
    dx, dgamma, dbeta = ref.batch_norm_backward(weights, x, gamma, beta, mean, rstd, slope, layout)
    assert_gradient(dx, numeric_gradient(loss, x))
    assert_gradient(dgamma, numeric_gradient(loss, gamma))
    assert_gradient(dbeta, numeric_gradient(loss, beta))


@pytest.mark.parametrize(("layout", "shape"), [("NC", (7, 3)), ("CN", (3, 7)), ("NC", (7, 3, 4))])
def test_weighted_batch_norm(rng, layout, shape):
    x, dy = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, 3))
    weight = np.array([1, 2, 0, 3, 1, 1, 2])
    options = {"slope": 0.1, "layout": layout, "weight": weight}

    def loss():
        return float((ref.batch_norm(x, gamma, beta, **options)[0] * dy).sum())

    y, mean, rstd = ref.batch_norm(x, gamma, beta, **options)
    dx, dgamma, dbeta = ref.batch_norm_backward(dy, x, gamma, beta, mean, rstd, **options)
    assert_gradient(dx, numeric_gradient(loss, x))
    assert_gradient(dgamma, numeric_gradient(loss, gamma))
    assert_gradient(dbeta, numeric_gradient(loss, beta))
    samples = 0 if layout == "NC" else 1
    repeated = ref.batch_norm(x.repeat(weight, samples), gamma, beta, 1e-5, 0.1, layout)
    np.testing.assert_allclose(mean, repeated[1], atol=1e-14)
    np.testing.assert_allclose(y.repeat(weight, samples), repeated[0], atol=1e-13)


def test_detached_gradient_treats_the_statistics_as_constants(rng):
    x, weights = rng.standard_normal((2, 7, 3))
    gamma, beta = rng.standard_normal((2, 3))
    _, mean, rstd = ref.batch_norm(x, gamma, beta)

    def loss():
        return float(((gamma * (x - mean) * rstd + beta) * weights).sum())

    dx, _, _ = ref.batch_norm_backward(weights, x, gamma, beta, mean, rstd, gradient="detached")
    assert_gradient(dx, numeric_gradient(loss, x))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_cross_entropy_gradient(rng, layout, smoothing):
    logits = rng.standard_normal((6, 4) if layout == "NC" else (4, 6))
    labels, weight = rng.integers(0, 4, 6), rng.uniform(0.1, 2, 6)

    def loss():
        return ref.softmax_cross_entropy(logits, labels, layout, weight, smoothing)[0]

    _, gradient = ref.softmax_cross_entropy(logits, labels, layout, weight, smoothing)
    assert_gradient(gradient, numeric_gradient(loss, logits))


def test_cross_entropy_of_equal_logits_is_the_log_of_the_classes():
    loss, _ = ref.softmax_cross_entropy(np.zeros((5, 8)), np.arange(5))
    assert loss == pytest.approx(np.log(8))


@pytest.mark.parametrize("name", get_args(ElementwiseActivation))
def test_elementwise_activations(rng, name):
    y = np.r_[-30, -1, 0, 1e-9, 3 * rng.standard_normal(20), 30]
    numeric = (ref.elementwise(y + H, name) - ref.elementwise(y - H, name)) / (2 * H)
    assert_gradient(ref.elementwise_gradient(y, name), numeric)


@pytest.mark.parametrize("name", ["tanh", "logistic"])
def test_saturating_activations(rng, name):
    y = np.r_[-300, -30, -1, 0, 1e-9, 3 * rng.standard_normal(20), 30, 300]
    expected = np.tanh(y) if name == "tanh" else 1 / (1 + np.exp(-y))
    np.testing.assert_allclose(ref.elementwise(y, name), expected, rtol=1e-14)
    scale = 1 if name == "tanh" else 0.5
    gradient = scale**2 / np.cosh(scale * y) ** 2  # without the cancellation of 1 - a^2
    np.testing.assert_allclose(ref.elementwise_gradient(y, name), gradient, rtol=1e-12)
    ends = np.array([np.inf, -np.inf, np.nan, 1e30, -1e30])
    low = -1.0 if name == "tanh" else 0.0
    np.testing.assert_array_equal(ref.elementwise(ends, name), [1, low, np.nan, 1, low])
    np.testing.assert_array_equal(ref.elementwise_gradient(ends, name), [0, 0, np.nan, 0, 0])


@pytest.mark.parametrize("elementwise", [None, *get_args(ElementwiseActivation)])
@pytest.mark.parametrize("normalized_output", [True, False])
@pytest.mark.parametrize("dropped", [True, False])
def test_gradients_of_a_whole_network(rng, dropped, normalized_output, elementwise):
    sizes = (4, 6, 5, 3)
    params = {}
    for index, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        params[f"layers.{index}.weight"] = rng.standard_normal((n_out, n_in))
        names = ["gamma", "beta"] if index < 2 or normalized_output else ["bias"]
        for name in names:
            params[f"layers.{index}.{name}"] = rng.standard_normal(n_out)
    x, labels = rng.standard_normal((9, 4)), rng.integers(0, 3, 9)
    masks = [ref.dropout_mask((n, 9), 0.4, 1, 2, i) for i, n in enumerate(sizes[1:-1])]
    options = {"masks": masks if dropped else None}

    def loss():
        logits, _ = mlp.forward(params, x, slope=0.1, elementwise=elementwise, **options)
        return ref.softmax_cross_entropy(logits, labels, "CN")[0]

    logits, caches = mlp.forward(params, x, slope=0.1, elementwise=elementwise, **options)
    _, dlogits = ref.softmax_cross_entropy(logits, labels, "CN")
    grads = mlp.backward(params, caches, dlogits, **options)
    assert set(grads) == set(params)
    for name, gradient in grads.items():
        assert_gradient(gradient, numeric_gradient(loss, params[name]))


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_optimizers_descend_a_quadratic(name):
    """All optimizers find the minimum of 0.5 * |p - target|^2."""
    target = np.array([1.0, -2.0, 3.0])
    rates = {"adam": 0.1, "adamw": 0.1, "sgd": 0.05, "rmsprop": 0.01}
    p, m, v = np.zeros((3, 3))
    for t in range(1, 801):
        lr = rates.get(name, 0.5)
        p, m, v = ref.optimizer_step(name, p, p - target, m, v, ref.Settings(step=t, lr=lr))
    np.testing.assert_allclose(p, target, atol=1e-2)


def test_dropout_masks_keep_the_mean_and_differ():
    masks = [
        ref.dropout_mask((50, 40), 0.25, 7, step, layer) for step in (1, 2) for layer in (0, 1)
    ]
    for mask in masks:
        assert set(np.unique(mask)) == {0.0, 1 / 0.75}
        assert abs((mask == 0).mean() - 0.25) < 0.05
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            agreement = (mask == other).mean()
            assert abs(agreement - (0.25**2 + 0.75**2)) < 0.06
