"""Stores that bypass the caches."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, assert_close, features

import fastbn
from fastbn import reference as ref
from fastbn.kernels import batchnorm_nc, streams


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 16, 17, 64, 1000])
def test_every_start_and_length(rng, dtype, size):
    memory = np.empty(2000, dtype)
    for start in range(20):
        source = rng.standard_normal(size + 1).astype(dtype)[1:]
        memory[:] = 7
        streams.stream(source, memory[start : start + size])
        assert np.array_equal(memory[start : start + size], source)
        assert (np.delete(memory, slice(start, start + size)) == 7).all()


# More than STREAM_BYTES, in rows that begin anywhere in a cache line; less in plain Python.
LARGE = [(3001, 1409), (65543, 67), (139901, 31)]
if JIT_DISABLED:
    LARGE = [(170, 101), (90, 67), (50, 31)]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("shape", LARGE)
def test_large_results(rng, monkeypatch, shape, layout, in_place):
    if JIT_DISABLED:
        monkeypatch.setattr(streams, "STREAM_BYTES", 0)
        monkeypatch.setattr(batchnorm_nc, "STREAMED_FEATURES", streams.PIECE)
    shape = shape if layout == "NC" else shape[::-1]
    x = rng.standard_normal(shape).astype(np.float32)
    dy = rng.standard_normal(shape).astype(np.float32)
    assert x.nbytes >= streams.STREAM_BYTES
    options = {"layout": layout, "activation": "leaky_relu", "negative_slope": 0.1}
    ones, zeros = np.ones(features(shape, layout)), np.zeros(features(shape, layout))
    expected, mean, rstd = ref.batch_norm(x, ones, zeros, slope=0.1, layout=layout)
    expected_dx, *_ = ref.batch_norm_backward(dy, x, ones, zeros, mean, rstd, 0.1, layout)

    out = x.copy()
    y, mean, rstd = fastbn.batch_norm(out if in_place else x, **options, out=out)
    assert y is out
    assert_close(y, expected)
    out = dy if in_place else np.empty_like(dy)
    dx, *_ = fastbn.batch_norm_backward(dy, x, None, None, mean, rstd, **options, out=out)
    assert dx is out
    clear = np.abs(expected) > 1e-6  # elsewhere rounding decides the sign, and dx with it
    assert np.count_nonzero(~clear) < 200
    assert_close(dx[clear], expected_dx[clear], tolerance=2e-6 * max(1.0, float(rstd.max())))
