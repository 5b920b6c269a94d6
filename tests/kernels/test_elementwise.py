"""Elementwise activations against the oracle: accuracy to the last digits, and extreme inputs."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from cases import DTYPES

from fastbn import reference as ref
from fastbn.kernels.elementwise import elementwise_backward, elementwise_forward
from fastbn.options import ElementwiseActivation, code

NAMES = get_args(ElementwiseActivation)


def points(rng, dtype):
    """Return numbers of all sizes and both signs, also where tanh switches its formula."""
    sizes = np.exp(rng.uniform(-60, 5, 500))
    seam = np.nextafter(0.25, [0.0, 0.25, 1.0])
    y = np.r_[sizes, seam, rng.uniform(0.2, 0.3, 200), rng.uniform(0, 20, 300), 0.0]
    return np.r_[y, -y].astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_forward_is_right_to_the_last_digits(rng, name, dtype):
    y = points(rng, dtype)
    a = y.copy()
    elementwise_forward(code(ElementwiseActivation, name), a)
    expected = ref.elementwise(y, name)
    # denormal results are zero
    bound = 4 * np.finfo(dtype).eps * np.abs(expected) + np.finfo(dtype).tiny
    assert (np.abs(a - expected) <= bound).all()
    assert np.array_equal(a[y == 0], expected[y == 0].astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_backward_is_right_where_it_is_flat(rng, name, dtype):
    z = points(rng, dtype)
    shift, scale, offset = dtype(0.5), dtype(-2.0), dtype(0.25)
    da = rng.standard_normal(z.size).astype(dtype)
    dy = da.copy()
    elementwise_backward(code(ElementwiseActivation, name), z, shift, scale, offset, dy)
    y = ((z - shift) * scale + offset).astype(np.float64)
    gradient = ref.elementwise_gradient(y, name)
    # e^y has the error of y: a relative error of eps * |y|
    bound = (8 + 4 * np.abs(y)) * np.finfo(dtype).eps * gradient + np.finfo(dtype).tiny
    assert (np.abs(dy - da * gradient) <= bound * np.maximum(np.abs(da), 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_edges(name, dtype):
    y = np.array([np.inf, -np.inf, np.nan, 1e30, -1e30], dtype)
    a = y.copy()
    elementwise_forward(code(ElementwiseActivation, name), a)
    assert np.array_equal(a, ref.elementwise(y, name).astype(dtype), equal_nan=True)
    dy = np.ones(5, dtype)
    elementwise_backward(code(ElementwiseActivation, name), y, dtype(0), dtype(1), dtype(0), dy)
    assert np.array_equal(dy, ref.elementwise_gradient(y, name).astype(dtype), equal_nan=True)
    empty = np.empty(0, dtype)
    elementwise_forward(code(ElementwiseActivation, name), empty)
    elementwise_backward(
        code(ElementwiseActivation, name), empty, dtype(0), dtype(1), dtype(0), empty
    )
