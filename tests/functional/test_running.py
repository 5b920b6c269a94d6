"""Running statistics, and folding them into weights."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, assert_close

import fastbn
from fastbn import reference as ref


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics(rng, dtype, momentum, unbiased):
    running_mean, running_var = np.zeros(5, dtype), np.ones(5, dtype)
    expected = running_mean.copy(), running_var.copy()
    for _ in range(4):
        x = rng.standard_normal((9, 5)).astype(dtype)
        mean, var = fastbn.batch_statistics(x)
        fastbn.update_running_statistics(
            running_mean, running_var, mean, var, 9, momentum=momentum, unbiased=unbiased
        )
        expected = ref.update_running_statistics(
            *expected, *ref.batch_statistics(x), 9, momentum, unbiased=unbiased
        )
    assert_close(running_mean, expected[0])
    assert_close(running_var, expected[1])


def test_momentum_none_is_the_cumulative_average(rng):
    running_mean, running_var = np.full(3, 99.0), np.full(3, 99.0)
    batches = rng.standard_normal((5, 8, 3))
    for count, x in enumerate(batches):
        fastbn.update_running_statistics(
            running_mean, running_var, *fastbn.batch_statistics(x), 8,
            momentum=None, num_batches_tracked=count,
        )  # fmt: skip
    assert_close(running_mean, batches.mean(axis=(0, 1)))
    assert_close(running_var, batches.var(axis=1, ddof=1).mean(axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 2, 3, 3)])
def test_fold(rng, shape, dtype):
    c = shape[0]
    W = rng.standard_normal(shape).astype(dtype)
    gamma, beta, mean = rng.standard_normal((3, c)).astype(dtype)
    var = rng.uniform(0.1, 2, c).astype(dtype)
    folded, bias = fastbn.fold_batch_norm(W, gamma, beta, mean, var, 1e-3)
    expected, expected_bias = ref.fold_batch_norm(W, gamma, beta, mean, var, 1e-3)
    assert folded.dtype == bias.dtype == dtype
    assert_close(folded, expected)
    assert_close(bias, expected_bias)


def test_folded_weights_do_what_the_two_layers_did(rng):
    W, x = rng.standard_normal((4, 6)), rng.standard_normal((10, 6))
    gamma, beta, mean = rng.standard_normal((3, 4))
    var = rng.uniform(0.1, 2, 4)
    expected = fastbn.batch_norm_inference(x @ W.T, mean, var, gamma, beta)
    folded, bias = fastbn.fold_batch_norm(W, gamma, beta, mean, var)
    assert_close(x @ folded.T + bias, expected)


def test_strided_statistics(rng):
    wide = rng.uniform(1, 2, (2, 6))
    before = wide.copy()
    mean, var = rng.uniform(1, 2, (2, 3))
    expected = ref.update_running_statistics(wide[0, ::2], wide[1, ::2], mean, var, 5)
    fastbn.update_running_statistics(wide[0, ::2], wide[1, ::2], mean, var, 5)
    assert_close(wide[:, ::2], np.array(expected))
    assert np.array_equal(wide[:, 1::2], before[:, 1::2])


def test_small_statistics_after_large_ones():
    """The first batch replaces a cumulative average, however large the initial value is."""
    mean, var = np.full(2, 1e8), np.ones(2)
    fastbn.update_running_statistics(
        mean, var, np.array([1e-30, 0.1]), np.array([1e-30, 0.3]), 2, momentum=None,
        num_batches_tracked=0, unbiased=False,
    )  # fmt: skip
    assert mean.tolist() == [1e-30, 0.1]
    assert var.tolist() == [1e-30, 0.3]
