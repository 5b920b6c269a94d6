"""Kernels that get addresses give the same results as those that get arrays."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, assert_close

import fastbn
from fastbn import reference as ref
from fastbn.kernels.addresses import differentiate_at, infer_at, statistics_at, train_at
from fastbn.kernels.optimizers import PART
from fastbn.kernels.tensors import adam_tensors, tensor_of
from fastbn.parallel.openmp import NO_POOL


def address(array):
    return array.ctypes.data


def addresses(*arrays):
    return tuple(map(address, arrays))


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "shape"), [("NC", (37, 5)), ("NC", (2, 1)), ("CN", (1, 5, 37)), ("CN", (4, 3, 7))]
)
def test_batch_norm(rng, layout, shape, dtype, tracked):
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    c = shape[1]
    gamma, beta = rng.standard_normal((2, c)).astype(dtype)
    mean, var = np.zeros(c, dtype), np.ones(c, dtype)
    y, dx = np.empty_like(x), np.empty_like(x)
    stats, dvectors = np.empty((2, 2, c), dtype)
    sizes = (layout == "NC", *shape) if layout == "CN" else (True, *shape, 1)
    steps = np.array([3])
    running = addresses(mean, var, steps) if tracked else (0, 0, 0)
    like, first = np.zeros(1, dtype), (NO_POOL, 1, sizes)
    tensors, gradient_tensors = addresses(x, gamma, beta, y), addresses(dy, x, gamma, beta)
    results = addresses(dx, *dvectors)
    assert train_at(stats, *first, tensors, 1e-5, 0.1, 0.1, running)
    differentiate_at(stats, *first, gradient_tensors, 0.1, True, results)
    expected, batch_mean, rstd = ref.batch_norm(x, gamma, beta, slope=0.1)
    assert_close(y, expected)
    assert_close(stats[0], batch_mean)
    assert_close(stats[1], rstd, scale=rstd)
    gradients = ref.batch_norm_backward(dy, x, gamma, beta, batch_mean, rstd, 0.1)
    assert_close(dx, gradients[0], tolerance=1e-5 if dtype == np.float32 else None)
    assert_close(dvectors[0], gradients[1], tolerance=1e-5 if dtype == np.float32 else None)
    assert_close(dvectors[1], gradients[2], tolerance=1e-5 if dtype == np.float32 else None)
    if tracked:
        n = x.size // c
        var_of_batch = ref.batch_statistics(x)[1]
        wanted = ref.update_running_statistics(np.zeros(c), np.ones(c), batch_mean, var_of_batch, n)
        assert_close(mean, wanted[0])
        assert_close(var, wanted[1])
        assert steps == 4
    else:
        assert not mean.any()
    one, other = np.empty((2, c), dtype)
    assert statistics_at(like, *first, address(x), address(one), address(other))
    for actual, wanted in zip((one, other), ref.batch_statistics(x), strict=True):
        assert_close(actual, wanted)
    infer_at(like, *first, tensors, 1e-5, 0.1, addresses(one, other))
    assert_close(y, ref.batch_norm_inference(x, one, other, gamma, beta, slope=0.1))
    differentiate_at(stats, *first, gradient_tensors, 0.1, False, results)
    detached = ref.batch_norm_backward(
        dy, x, gamma, beta, batch_mean, rstd, 0.1, gradient="detached"
    )
    assert_close(dx, detached[0], tolerance=1e-5 if dtype == np.float32 else None)


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_running_statistics_that_are_means_of_all_batches(rng, layout):
    sizes = (True, 20, 3, 1) if layout == "NC" else (False, 1, 3, 20)
    ones, zeros, steps, stats = np.ones(3), np.zeros(3), np.array([0]), np.empty((2, 3))
    mean, var, y = np.full(3, 7.0), np.full(3, 7.0), np.empty(60)
    batches = rng.standard_normal((4, 20, 3))
    for batch in batches:
        x = np.ascontiguousarray(batch if layout == "NC" else batch.T)
        assert train_at(
            stats, NO_POOL, 1, sizes, addresses(x, ones, zeros, y), 1e-5, 1.0, np.nan,
            addresses(mean, var, steps),
        )  # fmt: skip
    assert steps == 4
    np.testing.assert_allclose(mean, batches.mean(axis=(0, 1)), atol=1e-12)
    np.testing.assert_allclose(var, batches.var(axis=1, ddof=1).mean(axis=0), atol=1e-12)


def test_squares_that_overflow_are_left_to_others():
    x = np.full((8, 3), 1e30, np.float32)
    x[::2] *= -1
    y = np.zeros_like(x)
    ones, zeros, stats = np.ones(3, np.float32), np.zeros(3, np.float32), np.empty((2, 3), "f4")
    assert not train_at(
        stats, NO_POOL, 1, (True, 8, 3, 1), addresses(x, ones, zeros, y), 1e-5, 1.0, 0.1,
        (0, 0, 0),
    )  # fmt: skip
    assert not y.any()
    assert not statistics_at(
        zeros, NO_POOL, 1, (True, 8, 3, 1), address(x), address(stats[0]), address(stats[1])
    )


def test_the_tensor_of_a_part():
    parts = np.array([0, 2, 2, 5, 5])  # the second and the last are empty
    assert [tensor_of(parts, part) for part in range(5)] == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adam(rng, dtype, decoupled, amsgrad):
    sizes = [3, 0, 17, 1] if JIT_DISABLED else [PART + 1, 0, 17, 2 * PART]
    params = [rng.standard_normal(size).astype(dtype) for size in sizes]
    steps = [np.full(1, 4.0), *np.zeros((3, 1))]  # each tensor has its own count of steps
    grads, ms, vs, tops = ([np.zeros(size, dtype) for size in sizes] for _ in range(4))
    wanted = [[param.astype(np.float64), *np.zeros((3, param.size))] for param in params]
    parts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum([-(-size // PART) for size in sizes], out=parts[1:])
    table = np.array([[address(a) for a in row] for row in (steps, params, grads, ms, vs, tops)]).T
    table = np.ascontiguousarray(table)
    options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.1}
    for _ in range(3):
        for grad in grads:
            grad[...] = rng.standard_normal(grad.size)
        adam_tensors(
            NO_POOL, 1, np.zeros(1, dtype), np.zeros(1), table, np.array(sizes), parts,
            (-1.0, options["lr"], *options["betas"], options["eps"], options["weight_decay"]),
            decoupled, amsgrad,
        )  # fmt: skip
        for index, (p, m, v, top) in enumerate(wanted):
            step, up = int(steps[index][0]), -grads[index].astype(np.float64)
            if amsgrad:
                wanted[index] = amsgrad_step(p, up, m, v, top, step, decoupled, options)
            else:
                new = ref.adam_step(p, up, m, v, step=step, decoupled=decoupled, **options)
                wanted[index] = [*new, top]
    assert [int(step[0]) for step in steps] == [7, 3, 3, 3]
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for index, (p, m, v, top) in enumerate(wanted):
        assert_close(params[index], p, tolerance=tolerance)
        assert_close(ms[index], m, tolerance=tolerance)
        assert_close(vs[index], v, tolerance=tolerance)
        assert_close(tops[index], top, tolerance=tolerance)


def amsgrad_step(p, g, m, v, top, step, decoupled, options):
    """Reddi et al. 2018, algorithm 2, with Adam's corrections."""
    lr, (beta1, beta2) = options["lr"], options["betas"]
    if decoupled:
        p = p * (1 - lr * options["weight_decay"])
    else:
        g = g + options["weight_decay"] * p
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    top = np.maximum(top, v)
    root = np.sqrt(top / (1 - beta2**step))
    return [p - lr / (1 - beta1**step) * m / (root + options["eps"]), m, v, top]


def test_one_tensor_is_the_plain_step(rng):
    param, grad = rng.standard_normal((2, 100)).astype(np.float32)
    m, v, step = np.zeros(100, np.float32), np.zeros(100, np.float32), np.zeros(1)
    plain = [param.copy(), grad, m.copy(), v.copy()]
    table = np.array([[address(a) for a in (step, param, grad, m, v)]])
    sizes, parts, hyper = np.array([100]), np.array([0, 1]), (1.0, 1e-3, 0.9, 0.999, 1e-8, 0.0)
    adam_tensors(NO_POOL, 1, param, step, table, sizes, parts, hyper, False, False)
    fastbn.adam_step(*plain, step=1)
    assert np.array_equal(param, plain[0])
