"""Kernels called from a user's own `@njit` function, and the example of it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numba
import numpy as np
import pytest
from cases import JIT_DISABLED, assert_close

from fastbn import reference as ref
from fastbn.kernels.batchnorm import batch_norm_forward_cn
from fastbn.kernels.losses import softmax_cross_entropy_nc
from fastbn.kernels.optimizers import adam

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "own_loop.py"


def test_kernels_in_a_users_function(rng):
    @numba.njit
    def layer(x, gamma, beta, labels):
        n, c = x.shape[1], x.shape[0]
        y = np.empty((1, c, n), x.dtype)
        mean, var, rstd = np.empty(c, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
        number = x.dtype.type
        batch_norm_forward_cn(
            x.reshape(1, c, n), gamma, beta, number(1e-5), number(0.1), 0, c, y, mean, var, rstd
        )
        logits = np.ascontiguousarray(y[0].T)
        gradient = np.empty_like(logits)
        weight = np.full(n, number(1 / n))
        loss = softmax_cross_entropy_nc(logits, labels, weight, 0.0, gradient)
        return y[0], loss, gradient

    x, labels = rng.standard_normal((5, 33)).astype(np.float32), rng.integers(0, 5, 33)
    gamma, beta = rng.standard_normal((2, 5)).astype(np.float32)
    y, loss, gradient = layer(x, gamma, beta, labels)
    expected, _, _ = ref.batch_norm(x, gamma, beta, slope=0.1, layout="CN")
    expected_loss, expected_gradient = ref.softmax_cross_entropy(expected.T, labels)
    assert_close(y, expected)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert_close(gradient, expected_gradient, scale=1 / 33)


def test_an_optimizer_in_a_users_parallel_loop(rng):
    @numba.njit(parallel=True)
    def update(params, grads, m, v):
        for row in numba.prange(params.shape[0]):
            adam(
                params[row], grads[row], m[row], v[row], 1.0, 0.01, 0.9, 0.999, 1e-8,
                0.1, 0.001, 0.0, False, 0, params.shape[1],
            )  # fmt: skip

    params, grads = rng.standard_normal((2, 6, 40))
    expected, _, _ = ref.adam_step(params, grads, 0 * params, 0 * params, step=1, lr=0.01)
    update(params, grads, np.zeros_like(params), np.zeros_like(params))
    assert_close(params, expected)


def test_the_example_learns():
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("step   1  loss ")
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert losses[0] > 1.5
    assert losses[-1] < 0.1
