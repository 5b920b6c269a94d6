"""Batch norm of the NumPy API against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from cases import (
    ALL_SHAPES,
    DTYPES,
    JIT_DISABLED,
    assert_close,
    features,
    over_samples,
    shapes_with,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastbn
from fastbn import reference as ref
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.kernels.batchnorm_weighted import (
    weighted_batch_norm_backward_cn,
    weighted_batch_norm_forward_cn,
)

ACTIVATIONS = {None: 1.0, "relu": 0.0, "leaky_relu": 0.1}


def make(rng, shape, layout, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    gamma = rng.uniform(0.5, 2.0, features(shape, layout)).astype(dtype)
    gamma[::3] *= -1
    beta = rng.standard_normal(gamma.size).astype(dtype)
    return x, gamma, beta


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape"), ALL_SHAPES)
def test_statistics(rng, layout, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    mean, var = fastbn.batch_statistics(x, layout=layout)
    expected_mean, expected_var = ref.batch_statistics(x, layout)
    assert mean.dtype == var.dtype == dtype
    assert_close(mean, expected_mean, scale=1.0)
    assert_close(var, expected_var)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape", "activation"), shapes_with(ACTIVATIONS))
def test_forward(rng, layout, shape, dtype, activation):
    x, gamma, beta = make(rng, shape, layout, dtype)
    y, mean, rstd = fastbn.batch_norm(
        x, gamma, beta, layout=layout, activation=activation, negative_slope=0.1
    )
    expected = ref.batch_norm(x, gamma, beta, slope=ACTIVATIONS[activation], layout=layout)
    assert y.dtype == mean.dtype == rstd.dtype == dtype
    # two samples may be close together: y has the relative error of their distance
    tolerance = None if x.size > 3 * gamma.size else 2e-3 if dtype == np.float32 else 1e-11
    assert_close(y, expected[0], tolerance=tolerance)
    assert_close(mean, expected[1], scale=1.0)
    assert_close(rstd, expected[2], tolerance=tolerance)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "shape", "activation", "gradient"),
    shapes_with(ACTIVATIONS, ["exact", "detached"]),
)
def test_backward(rng, layout, shape, dtype, activation, gradient):
    x, gamma, beta = make(rng, shape, layout, dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    slope = ACTIVATIONS[activation]
    # the kernel's own mean and rstd, to check only the backward pass
    y, mean, rstd = fastbn.batch_norm(x, gamma, beta, layout=layout)
    # leave out values where rounding decides the sign of the activation's input
    dy[np.abs(y) < 1e-5] = 0
    dx, dgamma, dbeta = fastbn.batch_norm_backward(
        dy, x, gamma, beta, mean, rstd,
        layout=layout, activation=activation, negative_slope=0.1, gradient=gradient,
    )  # fmt: skip
    assert dx.dtype == dgamma.dtype == dbeta.dtype == dtype
    expected = ref.batch_norm_backward(dy, x, gamma, beta, mean, rstd, slope, layout, gradient)
    magnitude = over_samples(np.abs(dy * np.float64(1)), layout, np.sum)
    largest = np.abs(ref.batch_norm(x, np.ones_like(gamma), 0 * beta, layout=layout)[0]).max()
    assert_close(dbeta, expected[2], scale=magnitude)
    assert_close(dgamma, expected[1], scale=magnitude * largest)
    assert_close(dx, expected[0], scale=np.abs(gamma * rstd).max() * 4)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape", "activation"), shapes_with(ACTIVATIONS))
def test_inference(rng, layout, shape, dtype, activation):
    x, gamma, beta = make(rng, shape, layout, dtype)
    mean = rng.standard_normal(gamma.size).astype(dtype)
    var = rng.uniform(0.1, 3.0, gamma.size).astype(dtype)
    y = fastbn.batch_norm_inference(
        x, mean, var, gamma, beta, layout=layout, activation=activation, negative_slope=0.1
    )
    slope = ACTIVATIONS[activation]
    assert y.dtype == dtype
    assert_close(y, ref.batch_norm_inference(x, mean, var, gamma, beta, 1e-5, slope, layout))


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_inference_of_no_samples(layout):
    shape = (0, 3) if layout == "NC" else (3, 0)
    y = fastbn.batch_norm_inference(
        np.empty(shape, np.float32), np.zeros(3, "f4"), np.ones(3, "f4"), layout=layout
    )
    assert y.shape == shape
    assert y.dtype == np.float32


@pytest.mark.parametrize(
    ("layout", "shape"), [("NC", (40, 6)), ("NC", (4, 6, 10)), ("CN", (6, 40))]
)
def test_gradients_by_finite_differences(rng, layout, shape):
    x, gamma, beta = make(rng, shape, layout, np.float64)
    weights = rng.standard_normal(shape)

    def loss(x, gamma, beta):
        y, _, _ = fastbn.batch_norm(
            x, gamma, beta, layout=layout, activation="leaky_relu", negative_slope=0.1
        )
        return float((y * weights).sum())

    _, mean, rstd = fastbn.batch_norm(x, gamma, beta, layout=layout)
    gradients = fastbn.batch_norm_backward(
        weights, x, gamma, beta, mean, rstd,
        layout=layout, activation="leaky_relu", negative_slope=0.1,
    )  # fmt: skip
    arguments = [x, gamma, beta]
    h = 1e-6
    for position, gradient in enumerate(gradients):
        numeric = np.empty_like(gradient)
        for index in np.ndindex(gradient.shape):
            values = []
            for sign in (1, -1):
                moved = [a.copy() for a in arguments]
                moved[position][index] += sign * h
                values.append(loss(*moved))
            numeric[index] = (values[0] - values[1]) / (2 * h)
        assert_close(gradient, numeric, tolerance=1e-6)


@pytest.mark.skipif(JIT_DISABLED, reason="65,536 samples are too many for Python loops")
@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("samples", [16, 1000, 4096, 65536])
def test_float32_statistics_keep_their_digits(rng, layout, samples):
    x = rng.standard_normal((samples, 16)).astype(np.float32)
    x = x if layout == "NC" else np.ascontiguousarray(x.T)
    mean, var = fastbn.batch_statistics(x, layout=layout)
    expected_mean, expected_var = ref.batch_statistics(x, layout)
    assert np.max(np.abs(mean - expected_mean) / np.sqrt(expected_var)) <= 2e-6
    assert np.max(np.abs(var / expected_var - 1)) <= 2e-6


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_large_mean_small_deviation(rng, layout):
    """Data of mean 1e4 and deviation 1e-2 has some twenty distinct values in float32."""
    samples = 300 if JIT_DISABLED else 10000
    x = (1e4 + 1e-2 * rng.standard_normal((samples, 5))).astype(np.float32)
    x = x if layout == "NC" else np.ascontiguousarray(x.T)
    y, mean, rstd = fastbn.batch_norm(x, eps=1e-8, layout=layout)
    expected, expected_mean, expected_rstd = ref.batch_norm(
        x, np.ones(5), np.zeros(5), 1e-8, layout=layout
    )
    assert_close(y, expected)
    assert_close(rstd, expected_rstd)
    # the mean is rounded to float32, whose neighbours are 1e-3 apart at 1e4
    assert np.array_equal(mean, expected_mean.astype(np.float32))


@pytest.mark.parametrize("n_features", [3, 64, 1100])
@pytest.mark.parametrize("samples", [2, 3, 5, 17, 40, 100])
@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_float64_of_a_mean_far_from_zero(rng, layout, samples, n_features):
    """The mean is no float64 either; its rounding error is taken into account in y."""
    if JIT_DISABLED and n_features > 3:
        pytest.skip("too slow without the compiler")
    x = 1e4 + rng.standard_normal((samples, n_features))
    near = x - 1e4  # exactly: with mean 0 the oracle loses no digits
    x, near = (a if layout == "NC" else np.ascontiguousarray(a.T) for a in (x, near))
    ones, zeros = np.ones(n_features), np.zeros(n_features)
    y, _, rstd = fastbn.batch_norm(x, layout=layout)
    expected, _, expected_rstd = ref.batch_norm(near, ones, zeros, layout=layout)
    assert_close(y, expected)
    assert_close(rstd, expected_rstd)
    _, var = fastbn.batch_statistics(x, layout=layout)
    assert_close(var, ref.batch_statistics(near, layout)[1])


@pytest.mark.parametrize("scale", [1e18, 1e22, 1e30, 1e37, 1e-18, 1e-30])
@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_magnitudes_whose_squares_overflow_float32(rng, layout, scale):
    x = (scale * rng.uniform(-1, 1, (1500 if not JIT_DISABLED else 40, 3))).astype(np.float32)
    x = x if layout == "NC" else np.ascontiguousarray(x.T)
    with np.errstate(over="ignore"):  # the variance may be beyond float32
        y, mean, rstd = fastbn.batch_norm(x, layout=layout)
    expected, expected_mean, expected_rstd = ref.batch_norm(
        x, np.ones(3), np.zeros(3), layout=layout
    )
    assert_close(y, expected)
    assert_close(mean, expected_mean, scale=scale)
    assert_close(rstd, expected_rstd, scale=expected_rstd.max())
    dx, dgamma, _ = fastbn.batch_norm_backward(
        expected.astype("f4"), x, None, None, mean, rstd, layout=layout
    )
    assert np.isfinite(dx).all()
    assert_close(dgamma, over_samples(expected * expected, layout, np.sum))


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_constant_features(layout):
    x = np.full((64, 3) if layout == "NC" else (3, 64), 0.1, np.float32)
    y, mean, rstd = fastbn.batch_norm(x, beta=np.array([1, 2, 3], "f4"), layout=layout)
    rows = y if layout == "NC" else y.T
    assert np.array_equal(mean, np.full(3, 0.1, np.float32))
    assert_close(rstd, np.full(3, 1e-5**-0.5))
    assert_close(rows, np.tile([1.0, 2.0, 3.0], (64, 1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_nan_and_infinity_are_not_hidden(rng, layout, bad):
    x = rng.standard_normal((20, 4)).astype(np.float32)
    x[7, 2] = bad
    x = x if layout == "NC" else np.ascontiguousarray(x.T)
    y, mean, rstd = fastbn.batch_norm(x, layout=layout, activation="leaky_relu")
    rows = y if layout == "NC" else y.T
    assert np.isnan(rows[:, 2]).all()
    assert not np.isfinite(mean[2])
    assert np.isnan(rstd[2])
    assert np.isfinite(rows[:, [0, 1, 3]]).all()
    dx, dgamma, _ = fastbn.batch_norm_backward(x, x, None, None, mean, rstd, layout=layout)
    assert np.isnan(dx if layout == "CN" else dx.T)[2].all()
    assert np.isnan(dgamma[2])


def test_serial_and_parallel_give_the_same_bits(rng, monkeypatch):
    from fastbn.parallel import dispatch

    shape = (70, 9) if JIT_DISABLED else (3001, 67)
    x = rng.standard_normal(shape).astype(np.float32)
    results = []
    for threshold in (0, 1 << 62):
        monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", threshold)
        for layout, array in (("NC", x), ("CN", np.ascontiguousarray(x.T))):
            y, mean, rstd = fastbn.batch_norm(array, layout=layout, activation="leaky_relu")
            back = fastbn.batch_norm_backward(
                y, array, None, None, mean, rstd, layout=layout, activation="leaky_relu"
            )
            results.append([y, mean, rstd, *back])
    for serial, parallel in zip(results[2:], results[:2], strict=True):
        for a, b in zip(serial, parallel, strict=True):
            assert np.array_equal(a, b)


@settings(
    max_examples=20 if JIT_DISABLED else 150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_properties(data):
    """For any layout, strides and dtype, check the oracle's results and the properties of y."""
    layout = data.draw(st.sampled_from(["NC", "CN"]))
    dtype = data.draw(st.sampled_from(DTYPES))
    n, c = data.draw(st.integers(3, 40)), data.draw(st.integers(1, 20))
    x = data.draw(
        hnp.arrays(
            dtype, (n, c), elements=st.floats(-100, 100, width=32), fill=st.nothing(), unique=False
        )
    )
    x = x if layout == "NC" else np.ascontiguousarray(x.T)
    original = x.copy()
    view = data.draw(
        st.sampled_from(["plain", "reversed", "fortran", "read-only", "swapped", "every other"])
    )
    if view == "reversed":
        x = x[::-1, ::-1][::-1, ::-1]
    elif view == "fortran":
        x = np.asfortranarray(x)
    elif view == "read-only":
        x.flags.writeable = False
    elif view == "swapped":
        x = x.astype(x.dtype.newbyteorder("S"))
    elif view == "every other":
        wide = np.zeros((x.shape[0] * 2, x.shape[1] * 3), dtype)
        wide[::2, ::3] = x
        x = wide[::2, ::3]
    y, mean, _ = fastbn.batch_norm(x, eps=1e-3, layout=layout)
    expected, expected_mean, _ = ref.batch_norm(
        original, np.ones(c), np.zeros(c), 1e-3, layout=layout
    )
    assert np.array_equal(x, original), "the input was changed"
    assert y.dtype == dtype
    assert_close(mean, expected_mean, scale=np.abs(original).max() + 1.0)
    # y = (x - mean) * rstd: rstd magnifies the rounding of x - mean
    span = (np.abs(original).max() + 1.0) * 1e-3**-0.5
    assert_close(y, expected, scale=span)
    assert np.max(np.abs(y)) <= np.sqrt(n) * (1 + 1e-5), "no z-score of n values exceeds sqrt(n)"


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_gradients_of_tiny_and_huge_features(rng, layout, scale):
    """Neither a product of two such rstd nor a variance of 1e-60 is a float32."""
    x = (scale * rng.standard_normal((40, 3))).astype(np.float32)
    dy = rng.standard_normal((40, 3)).astype(np.float32)
    x, dy = (a if layout == "NC" else a.T.copy() for a in (x, dy))
    y, mean, rstd = fastbn.batch_norm(x, eps=0.0, layout=layout)
    ones, zeros = np.ones(3), np.zeros(3)
    expected, _, expected_rstd = ref.batch_norm(x, ones, zeros, 0.0, layout=layout)
    assert_close(y, expected)
    assert_close(rstd / expected_rstd, np.ones(3), tolerance=2e-6)
    dx, dgamma, dbeta = fastbn.batch_norm_backward(dy, x, None, None, mean, rstd, layout=layout)
    back = ref.batch_norm_backward(dy, x, ones, zeros, mean, rstd, layout=layout)
    assert_close(dx * np.float64(scale), back[0] * scale, tolerance=2e-6)
    assert_close(dgamma, back[1], scale=40.0)
    assert_close(dbeta, back[2], scale=40.0)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_weighted_statistics_of_tiny_and_huge_features(rng, scale):
    x = (scale * rng.standard_normal((3, 40))).astype(np.float32)
    weight = rng.uniform(0.5, 2, 40).astype(np.float32)
    weight /= weight.sum()
    ones, zeros, y = np.ones(3, np.float32), np.zeros(3, np.float32), np.empty_like(x)
    mean, var, rstd = np.empty((3, 3), np.float32)
    norm = Norm(mean, rstd, ones, zeros)
    with np.errstate(over="ignore"):  # the variance is beyond float32
        weighted_batch_norm_forward_cn(x, weight, norm, 0.0, np.float32(1), 0, 3, y, var)
    expected, _, expected_rstd = ref.batch_norm(x, ones, zeros, 0.0, layout="CN", weight=weight)
    assert_close(y, expected)
    assert_close(rstd / expected_rstd, np.ones(3), tolerance=2e-6)
    dx, dgamma, dbeta = np.empty_like(x), np.empty(3, np.float32), np.empty(3, np.float32)
    dy = rng.standard_normal((3, 40)).astype(np.float32)
    weighted_batch_norm_backward_cn(
        dy, x, weight, norm, np.float32(1), True, 0, 3, dx, dgamma, dbeta
    )
    back = ref.batch_norm_backward(dy, x, ones, zeros, mean, rstd, layout="CN", weight=weight)
    assert_close(dx * np.float64(scale), back[0] * scale, tolerance=4e-6)
