"""Min-max and z-score scaling."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, MATRICES, assert_close

import fastbn
from fastbn import reference as ref
from fastbn.functional.preprocessing import fit_standard, fit_standard_of
from fastbn.kernels import preprocessing as kernels

LAYOUTS = [("NC", s) for s in MATRICES[:9]] + [("CN", s[::-1]) for s in MATRICES[:9]]


@pytest.mark.parametrize("feature_range", [(0.0, 1.0), (-1.0, 1.0), (2.0, 5.0)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_min_max(rng, layout, shape, dtype, feature_range):
    x = rng.standard_normal(shape).astype(dtype)
    y, minimum, maximum = fastbn.min_max_scale(x, feature_range=feature_range, layout=layout)
    axis = 0 if layout == "NC" else 1
    assert y.dtype == dtype
    assert np.array_equal(minimum, x.min(axis=axis))
    assert np.array_equal(maximum, x.max(axis=axis))
    assert_close(y, ref.min_max_scale(x, feature_range, layout))
    again, _, _ = fastbn.min_max_scale(
        x, minimum=minimum, maximum=maximum, feature_range=feature_range, layout=layout
    )
    assert np.array_equal(again, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_standardize(rng, layout, shape, dtype):
    x = (5 + 3 * rng.standard_normal(shape)).astype(dtype)
    y, mean, std = fastbn.standardize(x, layout=layout)
    axis = 0 if layout == "NC" else 1
    assert y.dtype == mean.dtype == std.dtype == dtype
    # the mean is rounded to the dtype: y has that rounding error, divided by the deviation
    spacing = np.finfo(dtype).eps * np.abs(x).max() / std.min()
    assert_close(y, ref.standardize(x, layout), tolerance=2 * spacing)
    assert_close(std, x.astype(np.float64).std(axis=axis))
    again, _, _ = fastbn.standardize(x, mean=mean, std=std, layout=layout)
    assert np.array_equal(again, y)


@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
def test_a_constant_feature_does_not_divide_by_zero(layout, value):
    x = np.full((101, 2), value, np.float32)
    x[:, 1] = np.arange(101)
    x = x if layout == "NC" else np.ascontiguousarray(x.T)
    scaled, _, _ = fastbn.min_max_scale(x, feature_range=(-1, 1), layout=layout)
    standard, mean, std = fastbn.standardize(x, layout=layout)
    scaled, standard = (a if layout == "NC" else a.T for a in (scaled, standard))
    assert np.array_equal(scaled[:, 0], np.full(101, -1.0))
    assert np.array_equal(standard[:, 0], np.zeros(101))
    assert mean[0] == np.float32(value)
    assert std[0] == 0
    assert scaled[-1, 1] == pytest.approx(1, abs=1e-7)


def test_statistics_of_training_data_apply_to_other_data():
    train = np.array([[0.0], [10.0]])
    test = np.array([[5.0], [20.0]])
    _, minimum, maximum = fastbn.min_max_scale(train)
    y, _, _ = fastbn.min_max_scale(test, minimum=minimum, maximum=maximum)
    assert np.array_equal(y, [[0.5], [2.0]])


def test_nan_is_not_hidden(rng):
    x = rng.standard_normal((6, 3))
    x[2, 1] = np.nan
    for y, *_ in (fastbn.min_max_scale(x), fastbn.standardize(x)):
        assert np.isnan(y[:, 1]).all()
        assert np.isfinite(y[:, [0, 2]]).all()


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_out(rng, layout):
    x = rng.standard_normal((8, 8))
    expected, _, _ = fastbn.standardize(x, layout=layout)
    out = np.empty_like(x)
    y, _, _ = fastbn.standardize(x, layout=layout, out=out)
    assert y is out
    assert np.array_equal(out, expected)
    y, _, _ = fastbn.standardize(x, layout=layout, out=x)
    assert np.array_equal(x, expected)


def test_out_over_the_given_statistics(rng):
    """The statistics are rows of the array that is overwritten."""
    x = np.abs(rng.standard_normal((6, 3)))
    scaled, _, _ = fastbn.min_max_scale(x, minimum=x[0], maximum=x[0] + 2)
    standard, _, _ = fastbn.standardize(x, mean=x[0], std=x[1])
    y = x.copy()
    _, minimum, _ = fastbn.min_max_scale(y, minimum=y[0], maximum=x[0] + 2, out=y)
    assert np.array_equal(y, scaled)
    assert np.array_equal(minimum, x[0])
    y = x.copy()
    _, mean, std = fastbn.standardize(y, mean=y[0], std=y[1], out=y)
    assert np.array_equal(y, standard)
    assert np.array_equal([mean, std], x[:2])


def test_the_smallest_spans():
    x = np.array([[1e-25], [2e-25], [3e-25]], np.float32)
    assert_close(fastbn.standardize(x)[0], ref.standardize(x))
    assert np.isfinite(fastbn.min_max_scale(np.array([[0], [1e-42]], np.float32))[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_kernels(rng, dtype):
    """They are called as a user's own compiled code calls them."""
    x = (3 + rng.standard_normal((100, 6))).astype(dtype)
    x[:, 2] = 0.1
    x[:, 3] *= dtype(1e-25)
    x[:, 4] *= dtype(1e25)
    mean, std, low, high = np.empty((4, 6), dtype)
    kernels.standard_fit(x, mean, std)
    kernels.min_max_fit(x, low, high)
    expected_mean, expected_std = ref.standard_fit(x)
    assert_close(mean, expected_mean, scale=np.abs(expected_mean))
    assert_close(std, expected_std, scale=expected_std + (expected_std == 0))
    assert np.array_equal([low, high], np.array(ref.min_max_fit(x), dtype))


def test_given_statistics(rng):
    x, other = rng.standard_normal((2, 30, 4))
    y, _, _ = fastbn.standardize(x, mean=other[0], std=np.abs(other[1]))
    assert_close(y, ref.standardize(x, statistics=(other[0], np.abs(other[1]))))
    y, _, _ = fastbn.min_max_scale(x, minimum=other[0], maximum=other[0] + 2)
    assert_close(y, ref.min_max_scale(x, statistics=(other[0], other[0] + 2)))


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_deviations_whose_squares_overflow_float32(rng, layout):
    x = rng.standard_normal((400 if JIT_DISABLED else 5000, 3)) * [1e-30, 1e-20, 1e30]
    x = x.astype(np.float32) if layout == "NC" else x.T.astype(np.float32)
    y, mean, std = fastbn.standardize(x, layout=layout)
    _, expected = ref.standard_fit(x, layout)
    assert_close(std / expected, np.ones(3), tolerance=2e-6)
    assert_close(y, ref.standardize(x, layout, (mean, std)))


def test_a_deviation_whose_inverse_overflows_is_not_divided_by():
    x = np.array([[1e-40], [3e-40]], np.float32)
    y, _, std = fastbn.standardize(x)
    assert std > 0
    assert np.abs(y).max() < 1e-39


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3), (7, 2), (513, 64), (3000, 33), (5000, 5)])
def test_bytes_are_fitted_in_blocks_to_the_same_bits(rng, shape, dtype):
    shape = shape if not JIT_DISABLED else (min(shape[0], 600), shape[1])
    x = rng.integers(0, 256, shape).astype(np.uint8)
    x[:, 0] = 7
    for got, expected in zip(
        fit_standard_of(x, np.dtype(dtype)), fit_standard(x.astype(dtype)), strict=True
    ):
        assert np.array_equal(got, expected)
