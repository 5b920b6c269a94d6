"""tanh and the logistic function against the oracle, to the last digits and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES

from fastbn import reference as ref
from fastbn.kernels.saturating import LOGISTIC, TANH, saturating_backward, saturating_forward

ACTIVATIONS = [(TANH, "tanh"), (LOGISTIC, "logistic")]


def points(rng, dtype):
    """Numbers of all sizes and both signs, the seam of the two formulas of tanh among them."""
    sizes = np.exp(rng.uniform(-60, 5, 500))
    seam = np.nextafter(0.25, [0.0, 0.25, 1.0])
    y = np.r_[sizes, seam, rng.uniform(0.2, 0.3, 200), rng.uniform(0, 20, 300), 0.0]
    return np.r_[y, -y].astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "name"), ACTIVATIONS)
def test_forward_is_right_to_the_last_digits(rng, activation, name, dtype):
    y = points(rng, dtype)
    a = y.copy()
    saturating_forward(activation, a)
    expected = ref.saturating(y, name)
    # below the normal numbers there is zero
    bound = 4 * np.finfo(dtype).eps * np.abs(expected) + np.finfo(dtype).tiny
    assert (np.abs(a - expected) <= bound).all()
    assert np.array_equal(a[y == 0], expected[y == 0].astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "name"), ACTIVATIONS)
def test_backward_is_right_where_it_is_flat(rng, activation, name, dtype):
    z = points(rng, dtype)
    shift, scale, offset = dtype(0.5), dtype(-2.0), dtype(0.25)
    da = rng.standard_normal(z.size).astype(dtype)
    dy = da.copy()
    saturating_backward(activation, z, shift, scale, offset, dy)
    y = ((z - shift) * scale + offset).astype(np.float64)
    if name == "tanh":
        gradient = 1 / np.cosh(np.minimum(np.abs(y), 700)) ** 2  # without the cancellation
    else:
        e = np.exp(-np.abs(y))
        gradient = e / (1 + e) ** 2
    near = np.abs(y) < 3
    np.testing.assert_allclose(gradient[near], ref.saturating_gradient(y, name)[near], rtol=1e-12)
    # e^y has the error of y: a relative error of eps * |y|
    bound = (8 + 4 * np.abs(y)) * np.finfo(dtype).eps * gradient + np.finfo(dtype).tiny
    assert (np.abs(dy - da * gradient) <= bound * np.maximum(np.abs(da), 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "name"), ACTIVATIONS)
def test_edges(activation, name, dtype):
    y = np.array([np.inf, -np.inf, np.nan, 1e30, -1e30], dtype)
    a = y.copy()
    saturating_forward(activation, a)
    low = -1.0 if name == "tanh" else 0.0
    assert np.array_equal(a, np.array([1, low, np.nan, 1, low], dtype), equal_nan=True)
    dy = np.ones(5, dtype)
    saturating_backward(activation, y, dtype(0), dtype(1), dtype(0), dy)
    assert np.array_equal(dy, np.array([0, 0, np.nan, 0, 0], dtype), equal_nan=True)
    empty = np.empty(0, dtype)
    saturating_forward(activation, empty)
    saturating_backward(activation, empty, dtype(0), dtype(1), dtype(0), empty)
