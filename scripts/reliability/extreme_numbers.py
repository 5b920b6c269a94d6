"""The trial of numbers near the limits of a dtype, and of ten million rows.

The results are compared with the oracle (`fastbn.reference`), which gets the same numbers in
float64. For statistics the first sample is subtracted from them first, because the rounding errors
of the oracle would be too large otherwise.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import extreme_training
import numpy as np
from extreme_data import (
    DENORMAL,
    VARIANCE,
    Array,
    Generator,
    draw,
    draw_any,
    exact_statistics,
    near,
    tolerance,
    turned,
)
from trial import Trial

import fastbn
from fastbn import reference as ref

MANY = 10_000_000


def statistics(rng: Generator) -> str:
    """Check mean and variance; a variance beyond the dtype must be infinite."""
    x, layout = draw_any(rng)
    mean, var = fastbn.batch_statistics(turned(x, layout), layout=layout)
    check_statistics(x, mean, var)
    return "statistics as the oracle's"


def check_statistics(x: Array, mean: Array, var: Array) -> None:
    """Compare mean and variance with the oracle's."""
    expected, expected_var = exact_statistics(x)
    off = np.abs(x - expected).max(axis=0)
    rounding = np.finfo(x.dtype).eps * np.abs(expected)
    near("mean", mean, expected, tolerance(x) * off + rounding + DENORMAL)
    fits = expected_var < np.finfo(x.dtype).max
    rounding = np.finfo(np.float64).eps * np.abs(expected)  # of the shift, if x is float64
    error = VARIANCE[x.dtype.name] * expected_var + rounding**2 + DENORMAL
    near("var", var[fits], expected_var[fits], error[fits])
    assert np.isposinf(var[~fits]).all(), f"var: expected infinity, got {var[~fits]}"


def batch_norm(rng: Generator) -> str:
    """Check forward and backward, also with eps = 0 if the variance has an inverse."""
    x, layout = draw_any(rng)
    t, (n, c) = tolerance(x), x.shape
    mean, var = exact_statistics(x)
    inverse_fits = var.min() > 1e-66
    eps = float(rng.choice([1e-5, 1e-3, 0.0] if inverse_fits else [1e-5, 1e-3]))
    gamma, beta = rng.uniform(0.5, 2, c).astype(x.dtype), rng.standard_normal(c).astype(x.dtype)
    slope = float(rng.choice([1.0, 0.1]))
    options = {"layout": layout, "activation": "leaky_relu", "negative_slope": slope}
    given = turned(x, layout)
    y, got_mean, rstd = fastbn.batch_norm(given, gamma, beta, eps=eps, **options)
    expected_rstd = 1 / np.sqrt(var + eps)
    expected = ref.leaky_relu(gamma * ((x - mean) * expected_rstd) + beta, slope)
    rounding = np.finfo(np.float64).eps * np.abs(mean) * expected_rstd
    largest = np.maximum(np.abs(expected).max(axis=0), 1)
    t_var = VARIANCE[x.dtype.name] / 2
    near("y", turned(y, layout), expected, (t + t_var) * largest + 4 * rounding)
    near("rstd", rstd, expected_rstd, (t + t_var + rounding) * expected_rstd)
    # either slope is right if rounding decides the sign of the activation's input
    dy = rng.standard_normal((n, c)).astype(x.dtype)
    xhat = (x.astype(np.float64) - got_mean) * rstd
    at_zero = 1e-5 * (1 + np.abs(beta) + np.abs(xhat).max(axis=0))
    dy[np.abs(gamma * xhat + beta) < at_zero] = 0
    dx, dgamma, dbeta = fastbn.batch_norm_backward(
        turned(dy, layout), given, gamma, beta, got_mean, rstd, **options
    )
    expected_back = ref.batch_norm_backward(dy, x, gamma, beta, got_mean, rstd, slope)
    total, largest = np.abs(dy).sum(axis=0, dtype=np.float64), np.abs(xhat).max(axis=0)
    denormal = DENORMAL * (n + np.minimum(rstd, 1e3) * total)
    near("dbeta", dbeta, expected_back[2], t * total)
    near("dgamma", dgamma, expected_back[1], t * total * largest + denormal)
    size = np.abs(dy).max(axis=0) + total / n * (1 + largest**2)
    scale = np.abs(gamma * rstd.astype(np.float64))
    near("dx", turned(dx, layout), expected_back[0], t * scale * size + DENORMAL)
    return "batch norm and its gradient as the oracle's"


def inference(rng: Generator) -> str:
    """Check inference with running statistics of such sizes."""
    x, layout = draw_any(rng)
    mean, var = (np.minimum(s, 1e38).astype(x.dtype) for s in exact_statistics(x))
    beta = rng.standard_normal(x.shape[1]).astype(x.dtype)
    y = fastbn.batch_norm_inference(turned(x, layout), mean, var, None, beta, layout=layout)
    expected = ref.batch_norm_inference(x, mean, var, np.ones(x.shape[1]), beta)
    largest = np.abs(expected - beta).max(axis=0) + np.abs(beta)
    near("y", turned(y, layout), expected, tolerance(x) * largest)
    return "inference as the oracle's"


def scaling(rng: Generator) -> str:
    """Check z-scores and min-max; a range without an inverse in the dtype counts as constant."""
    x, layout = draw_any(rng)
    t, given, smallest = tolerance(x), turned(x, layout), 1.01 / np.finfo(x.dtype).max
    y, mean, std = fastbn.standardize(given, layout=layout)
    expected_mean, var = exact_statistics(x)
    constant = x.min(axis=0) == x.max(axis=0)
    expected_std = np.where(constant, 0, np.sqrt(var))
    rounding = np.finfo(np.float64).eps * np.abs(expected_mean)
    t_var = VARIANCE[x.dtype.name] / 2
    near("std", std, expected_std, (t + t_var) * expected_std + rounding + DENORMAL)
    flat = std < smallest
    expected = ref.standardize(x, statistics=(mean, np.where(flat, 1, std)))
    near("z-score", turned(y, layout), expected, t * np.abs(expected).max(axis=0) + DENORMAL)
    y, low, high = fastbn.min_max_scale(given, layout=layout)
    assert (low == x.min(axis=0)).all()
    assert (high == x.max(axis=0)).all()
    flat = high.astype(np.float64) - low < smallest
    expected = np.where(flat, x - low, ref.min_max_scale(x))
    near("min-max", turned(y, layout), expected, t)
    return "scaling as the oracle's"


LOGITS = ["1e30", "1e36", "1e-30", "constant", "usual", "two values", "one large"]


def losses(rng: Generator) -> str:
    """Check softmax, sigmoid and squared error, with label smoothing and weights."""
    n, c = int(rng.choice([2, 3, 64, 3000])), int(rng.choice([1, 2, 10]))
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    layout, smoothing = str(rng.choice(["NC", "CN"])), float(rng.choice([0.0, 0.1, 1.0]))
    z = draw(rng, c, n, dtype, LOGITS).T.copy()  # each sample of a random kind
    weight = None if rng.random() < 0.5 else rng.uniform(0, 2, n) + 1e-3
    share = np.ones(n) / n if weight is None else weight / weight.sum()
    labels, targets = rng.integers(0, c, n), rng.uniform(0, 1, (n, c)).astype(dtype)
    t, given, wide = tolerance(z), turned(z, layout), z.astype(np.float64)
    options = {"layout": layout, "sample_weight": weight}
    smooth = {**options, "label_smoothing": smoothing}
    spread = (wide.max(axis=1, keepdims=True) - wide).sum(axis=1)
    size, turned_targets = 1 + np.abs(wide), turned(targets, layout)
    for name, target, more, of_loss, of_gradient in [
        ("softmax_cross_entropy", labels, smooth, 1 + spread, share.max()),
        ("sigmoid_cross_entropy", turned_targets, smooth, size.sum(axis=1), share.max()),
        ("squared_error", turned_targets, options, size.sum(axis=1) ** 2, share[:, None] * size),
    ]:
        loss, d = getattr(fastbn, name)(given, target, **more)
        expected, expected_d = getattr(ref, name)(given, target, **more)
        near(name, loss, expected, t * (share @ of_loss))
        near(f"gradient of {name}", turned(d, layout), turned(expected_d, layout), t * of_gradient)
    return "losses as the oracle's"


def optimizers(rng: Generator) -> str:
    """Check ten steps with gradients whose squares fit in the dtype, or that are clipped."""
    name = str(rng.choice(["adam", "rmsprop", "sgd"]))
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    clips = rng.random() < 0.3
    largest = 30 if dtype == np.float64 or name == "sgd" or clips else 18
    step, expected_step = (getattr(module, f"{name}_step") for module in (fastbn, ref))
    size = 10.0 ** rng.choice(np.arange(-30.0, largest + 1, 6), 257)
    param = rng.standard_normal(257).astype(dtype)
    states = [np.zeros(257, dtype) for _ in range(2 if name == "adam" else 1)]
    expected = [array.astype(np.float64) for array in (param, *states)]
    options: dict[str, Any] = {"lr": 0.01, "max_norm": 1.0 if clips else None}
    moved = np.abs(expected[0])
    for number in range(1, 11):
        grad = (size * rng.standard_normal(257)).astype(dtype)
        if name == "adam":
            options["step"] = number
        step(param, grad, *states, **options)
        before = expected[0]
        expected = list(expected_step(expected[0], grad, *expected[1:], **options))
        moved = moved + np.abs(expected[0] - before)
    t = 10 * tolerance(param)  # of ten steps
    near("param", param, expected[0], t * moved)
    for state, values in zip(states, expected[1:], strict=True):
        scale = np.abs(values) if name != "sgd" else size * 100
        scale = np.minimum(size, 1) if clips else np.maximum(scale, size if name == "adam" else 0)
        near("moment", state, values, t * np.maximum(scale, np.abs(values)) + DENORMAL)
    return "optimizers as the oracle's"


def gradients_beyond(rng: Generator) -> str:
    """Check that squares beyond float32 are infinite; then Adam does not move the parameter."""
    param, grad = rng.standard_normal((2, 100)).astype(np.float32)
    before, m, v = param.copy(), np.zeros_like(param), np.zeros_like(param)
    fastbn.adam_step(param, grad * np.float32(1e30), m, v, step=1)
    assert np.isposinf(v).all()
    assert np.array_equal(param, before)
    return "moments beyond float32 infinite"


def running(rng: Generator) -> str:
    """Check ten thousand updates of running statistics; their rounding errors decay."""
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    momentum = [0.1, 0.01, None][rng.integers(3)]
    size = np.array([1.0, 1e30, 1e-30, 1e-5])
    mean, var = np.zeros(4, dtype), np.ones(4, dtype)
    expected = mean.astype(np.float64), var.astype(np.float64)
    for number in range(10_000):
        batch = (size * rng.standard_normal(4)).astype(dtype), (size * rng.random(4)).astype(dtype)
        options: dict[str, Any] = {"momentum": momentum}
        options["num_batches_tracked"] = number
        fastbn.update_running_statistics(mean, var, *batch, 64, **options)
        expected = ref.update_running_statistics(*expected, *batch, 64, **options)
    updates = 10_000 / 2 if momentum is None else 1 / momentum
    error = np.finfo(dtype).eps / 2 * updates
    near("running mean", mean, expected[0], error * size * 5)
    near("running variance", var, expected[1], error * (size + expected[1]))
    return "10,000 running statistics as the oracle's"


# -- ten million rows ------------------------------------------------------------------------------


def ten_million(rng: Generator) -> str:
    """Check sums of ten million rows: blocks in float32, totals in float64."""
    x = np.empty((MANY, 3), np.float32)
    x[:, 0] = rng.standard_normal(MANY, np.float32)
    kind = rng.integers(3)
    x[:, 1] = 0.1 if kind == 0 else x[::-1, 0] * [0, 1e-2, 1e30][kind] + [0, 1e4, 0][kind]
    x[:, 2] = np.where(rng.random(MANY) < 0.5, 1.1, -1.1)  # all rounded in the same direction
    check_statistics(x, *fastbn.batch_statistics(x))
    turned_x = np.ascontiguousarray(x.T)
    check_statistics(x, *fastbn.batch_statistics(turned_x, layout="CN"))
    labels = np.zeros(MANY, np.int64)
    small = np.clip(x[:, :2], -1e4, 1e4)
    loss, _ = fastbn.softmax_cross_entropy(small, labels)
    expected = np.logaddexp(0, np.subtract(small[:, 1], small[:, 0], dtype=np.float64)).mean()
    near("loss", loss, expected, 2e-6 * max(1, expected))
    return "10 million rows as the oracle's"


CASES = [
    statistics, batch_norm, inference, scaling, extreme_training.training, batch_norm, losses,
    optimizers, extreme_training.training,
    batch_norm, extreme_training.fits, gradients_beyond,
]  # fmt: skip
COUNT = 600


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Take the kinds of cases in turns, some long ones in between, and the longest at the end."""
    many = 3 if count == COUNT else 0
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        case = running if index % 40 == 20 else CASES[index % len(CASES)]
        case = ten_million if index >= count - many else case
        with np.errstate(all="ignore"):
            outcome = case(rng)
        yield outcome


TRIAL = Trial(
    "numbers",
    "Constant, denormal, huge and tiny data, batches of 2 and 10 million rows give the results of "
    "the float64 oracle, or are refused.",
    COUNT,
    cases,
)
