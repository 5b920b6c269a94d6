"""Optimizer steps against the oracle, in place on any array."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, assert_close

import fastbn
from fastbn import reference as ref
from fastbn.kernels.optimizers import adam

SHAPES = [(1,), (7,), (3, 5), ()]
if not JIT_DISABLED:
    SHAPES += [(16383,), (16385,), (127, 259), (40000,)]

ADAM = [
    {},
    {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decoupled": True},
    {"max_norm": 0.5},
    {"betas": (0.0, 0.0)},
]
SGD = [{}, {"momentum": 0.0}, {"nesterov": True, "weight_decay": 0.1}, {"max_norm": 0.5}]
RMSPROP = [{}, {"alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1}, {"max_norm": 0.5}]


def check_steps(rng, shape, dtype, step, reference_step, n_states, steps=5):
    """Take a few steps with the kernel and the oracle, and compare their arrays."""
    state = [rng.standard_normal(shape).astype(dtype)]
    state += [np.zeros(shape, dtype) for _ in range(n_states)]
    expected = [s.astype(np.float64) for s in state]
    for number in range(1, steps + 1):
        grad = rng.standard_normal(shape).astype(dtype)
        kept = grad.copy()
        assert step(number, state[0], grad, *state[1:]) is None
        assert np.array_equal(grad, kept), "the gradient was changed"
        expected = list(reference_step(number, expected[0], grad, *expected[1:]))
    for actual, wanted in zip(state, expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("options", ADAM)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_adam(rng, shape, dtype, options):
    check_steps(
        rng, shape, dtype,
        lambda t, p, g, m, v: fastbn.adam_step(p, g, m, v, step=t, **options),
        lambda t, p, g, m, v: ref.adam_step(p, g, m, v, step=t, **options), 2,
    )  # fmt: skip


@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sgd(rng, shape, dtype, options):
    check_steps(
        rng, shape, dtype,
        lambda t, p, g, m: fastbn.sgd_step(p, g, m, **options),
        lambda t, p, g, m: ref.sgd_step(p, g, m, **options), 1,
    )  # fmt: skip


@pytest.mark.parametrize("options", RMSPROP)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rmsprop(rng, shape, dtype, options):
    check_steps(
        rng, shape, dtype,
        lambda t, p, g, v: fastbn.rmsprop_step(p, g, v, **options),
        lambda t, p, g, v: ref.rmsprop_step(p, g, v, **options), 1,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_with_flat_arguments_is_adam(rng, dtype):
    """Users' own loops call it like this."""
    arrays = np.abs(rng.standard_normal((4, 50))).astype(dtype)
    expected = arrays.copy()
    adam(*arrays, 0.5, 0.01, 0.9, 0.99, 1e-6, 1 - 0.9**3, 1 - 0.99**3, 0.1, True, 10, 40)
    param, grad, m, v = expected[:, 10:40]
    fastbn.adam_step(
        param, grad * dtype(0.5), m, v, step=3, lr=0.01, betas=(0.9, 0.99), eps=1e-6,
        weight_decay=0.1, decoupled=True,
    )  # fmt: skip
    assert_close(arrays, expected)
    assert np.array_equal(arrays[:, :10], expected[:, :10])


def test_strided_parameters_are_updated_in_place(rng):
    wide = rng.standard_normal((6, 8))
    before = wide.copy()
    param = wide[::2, ::2]
    m, v = np.zeros((2, 3, 4))
    grad = rng.standard_normal((4, 3)).T
    expected, _, _ = ref.adam_step(param, grad, m, v, step=1)
    fastbn.adam_step(param, grad, m, v, step=1)
    assert_close(wide[::2, ::2], expected)
    untouched = np.ones(wide.shape, bool)
    untouched[::2, ::2] = False
    assert np.array_equal(wide[untouched], before[untouched])


def test_first_step_of_adam_has_the_length_of_lr(rng):
    """With bias correction the first step is lr * sign(grad), for gradients of any size."""
    for scale in (1e-3, 1.0, 1e4):
        param, m, v = np.zeros((3, 50))
        grad = scale * rng.choice([-1.0, 1.0], 50)
        fastbn.adam_step(param, grad, m, v, step=1, lr=0.01)
        assert_close(param, -0.01 * np.sign(grad), tolerance=1e-6)


def test_clipping_takes_the_norm_of_the_whole_array():
    param, m = np.zeros((2, 4))
    grad = np.array([3.0, 0.0, 0.0, 4.0])
    fastbn.sgd_step(param, grad, m, lr=1.0, momentum=0.0, max_norm=1.0)
    assert np.linalg.norm(param) == pytest.approx(1.0, abs=1e-6)
    fastbn.sgd_step(param, grad, m, lr=1.0, momentum=0.0, max_norm=5.1)
    assert m[0] == 3.0, "a gradient below the limit is left alone"


def test_empty_parameters():
    empty = [np.empty(0, np.float32) for _ in range(4)]
    fastbn.adam_step(*empty, step=1)
    assert empty[0].size == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1e20, 1e30, np.nan])
def test_clipping_of_gradients_whose_squares_overflow_float32(dtype, value):
    param, m = np.zeros((2, 4), dtype)
    grad = np.array([value, 1.0, value, 0.0], dtype)
    fastbn.sgd_step(param, grad, m, lr=1.0, momentum=0.0, max_norm=1.0)
    expected, _ = ref.sgd_step(np.zeros(4), grad, np.zeros(4), lr=1.0, momentum=0.0, max_norm=1.0)
    assert np.array_equal(np.isnan(param), np.isnan(expected))
    if np.isfinite(value):
        assert_close(param, expected)
