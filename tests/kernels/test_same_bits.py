"""The bits do not depend on where arrays begin, how loops are split, or how many threads run.

`test_levels.py` runs this file for other processors, too.
"""

from __future__ import annotations

import contextlib
import functools
from typing import get_args

import numba
import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, features

import fastbn
from fastbn.kernels import (
    activations,
    batchnorm_cn,
    batchnorm_nc,
    batchnorm_weighted,
    elementwise,
    losses,
    optimizers,
    preprocessing,
    running,
    statistics_nc,
    streams,
    tensors,
)
from fastbn.kernels.addresses import differentiate_at, infer_at, train_at
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.options import ElementwiseActivation, Optimizer, code
from fastbn.parallel import dispatch, team_size
from fastbn.parallel.openmp import NO_POOL

ACTIVATIONS = get_args(ElementwiseActivation)

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="bits as they are compiled")

# Offsets of arrays from the start of a cache line, in numbers; outputs have other offsets.
STARTS = [0, 1, 3, 5, 7]

# Threads of a parallel region; 0 is the serial kernel.
THREADS = [0, 1, 2, 3]

# Where a row of 150 numbers is split: near multiples of vectors and parts of cache lines.
CUTS = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100, 127, 149]


def placed(array, start):
    """Return a copy that begins `start` numbers after the start of a cache line."""
    memory = np.empty(array.nbytes + 64 + start * array.itemsize, np.uint8)
    first = -memory.ctypes.data % 64 + start * array.itemsize
    there = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    there[...] = array
    return there


def same(results, expected):
    """Assert that two results have the same bits."""
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(results, expected, strict=True)
    )


@contextlib.contextmanager
def threads(number, monkeypatch):
    """Use parallel regions of `number` threads, if there are so many; 0 means none."""
    before = numba.get_num_threads()
    monkeypatch.setattr(dispatch, "PARALLEL_ELEMENTS", 0 if number else 1 << 62)
    numba.set_num_threads(min(max(number, 1), numba.config.NUMBA_NUM_THREADS))
    yield
    numba.set_num_threads(before)


# Rows and columns; blocks of features; several chunks; rows longer than a block of sums; images.
SHAPES = [
    ("NC", (37, 5)),
    ("NC", (1100, 96)),
    ("NC", (131, 1100)),
    ("CN", (5, 37)),
    ("CN", (9, 2051)),
    ("NC", (5, 6, 7, 5)),
]

# Of 16 MB in float32; float64 takes half the rows.
LARGE = [("NC", (2048, 2100)), ("CN", (2048, 2100))]


def batch_norm_results(x, dy, gamma, beta, layout, start=0):
    """Return outputs of all functions of batch norm; those as large as x begin at `start`."""
    out = [placed(np.zeros_like(x), start) for _ in range(4)]
    options = {"layout": layout, "activation": "leaky_relu", "negative_slope": 0.1}
    y, mean, rstd = fastbn.batch_norm(x, gamma, beta, out=out[0], **options)
    arguments = dy, x, gamma, beta, mean, rstd
    dx, dgamma, dbeta = fastbn.batch_norm_backward(*arguments, out=out[1], **options)
    detached = fastbn.batch_norm_backward(*arguments, out=out[2], gradient="detached", **options)
    statistics = fastbn.batch_statistics(x, layout=layout)
    inferred = fastbn.batch_norm_inference(x, *statistics, gamma, beta, out=out[3], **options)
    return y, mean, rstd, dx, dgamma, dbeta, detached[0], *statistics, inferred


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape"), SHAPES + LARGE)
def test_batch_norm(rng, monkeypatch, layout, shape, dtype):
    if (layout, shape) in LARGE:
        shape = (shape[0] * 4 // dtype().itemsize, shape[1])
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    gamma, beta = rng.standard_normal((2, features(shape, layout))).astype(dtype)
    with threads(0, monkeypatch):
        expected = batch_norm_results(x, dy, gamma, beta, layout)
    starts = STARTS[:3] if x.nbytes >= streams.STREAM_BYTES else STARTS
    for number, start in zip([*THREADS, 0, 2], [*starts, *starts, *starts], strict=False):
        moved = [placed(array, start) for array in (x, dy, gamma, beta)]
        for out_start in starts:
            with threads(number, monkeypatch):
                results = batch_norm_results(*moved, layout, out_start)
            assert same(results, expected), (number, start, out_start)
    with threads(0, monkeypatch):  # in place: the compiler has other loops for arrays that overlap
        out = x.copy()
        fastbn.batch_norm(
            out, gamma, beta, layout=layout, activation="leaky_relu", negative_slope=0.1, out=out
        )
        assert same([out], expected[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_adam_scaling_and_softmax_with_any_number_of_threads(rng, monkeypatch, layout, dtype):
    x, grad = rng.standard_normal((2, 301, 67)).astype(dtype)
    labels = rng.integers(0, features(x.shape, layout), x.size // features(x.shape, layout))

    def results(number):
        param, m, v = np.ones((3, x.size), dtype)
        with threads(number, monkeypatch):
            fastbn.adam_step(param, grad.ravel(), m, v, step=2, max_norm=1.0)
            return (
                param, m, v, *fastbn.min_max_scale(x, layout=layout),
                *fastbn.standardize(x, layout=layout),
                *fastbn.softmax_cross_entropy(x, labels, layout=layout),
            )  # fmt: skip

    for number in THREADS[1:]:
        assert same(results(number), results(0)), number


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "sizes"),
    [("NC", (True, 37, 5, 1)), ("NC", (True, 1100, 96, 1)), ("CN", (False, 5, 6, 35))],
)
def test_memory_by_its_address(rng, monkeypatch, layout, sizes, dtype):
    """PyTorch's tensors get the same results as arrays."""
    shape = sizes[1:] if layout == "CN" else sizes[1:3]
    x, dy = rng.standard_normal((2, *shape)).astype(dtype)
    gamma, beta = rng.standard_normal((2, shape[1])).astype(dtype)
    with threads(0, monkeypatch):
        expected = batch_norm_results(x, dy, gamma, beta, "NC")
    slope = 0.1  # a Python float, as PyTorch's modules have it
    for start in STARTS:
        arrays = [placed(array, start) for array in (x, dy, gamma, beta, expected[7], expected[8])]
        x_at, dy_at, gamma_at, beta_at, mean_at, var_at = (array.ctypes.data for array in arrays)
        y, dx, inferred = (placed(np.zeros_like(x), start + 2) for _ in range(3))
        stats, dvectors = np.empty((2, 2, shape[1]), dtype)
        first = (NO_POOL, 1, sizes)
        tensors = (x_at, gamma_at, beta_at, y.ctypes.data)
        assert train_at(stats, *first, tensors, 1e-5, slope, 0.1, (0, 0, 0))
        gradients = tuple(array.ctypes.data for array in (dx, *dvectors))
        differentiate_at(stats, *first, (dy_at, *tensors[:3]), slope, True, gradients)
        tensors = (*tensors[:3], inferred.ctypes.data)
        infer_at(stats, *first, tensors, 1e-5, slope, (mean_at, var_at))
        assert same([y, *stats, dx, *dvectors], expected[:6])
        if layout == "CN":  # sample-major arrays have the running variance in another dtype
            assert same([inferred], expected[9:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_past_the_caches_or_not_feature_major(rng, dtype):
    """A feature gets the same bits alone as among many, which bypass the caches."""
    x, dy = rng.standard_normal((2, 2048, 2100)).astype(dtype)
    assert x.nbytes >= streams.STREAM_BYTES
    options = {"layout": "CN", "activation": "leaky_relu", "negative_slope": 0.1}
    y, mean, rstd = fastbn.batch_norm(x, **options)
    dx, *_ = fastbn.batch_norm_backward(dy, x, None, None, mean, rstd, **options)
    part = slice(0, 40)
    few, mean, rstd = fastbn.batch_norm(x[part], **options)
    few_dx, *_ = fastbn.batch_norm_backward(dy[part], x[part], None, None, mean, rstd, **options)
    assert same([few, few_dx], [y[part], dx[part]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_past_the_caches_or_not_sample_major(rng, dtype):
    x, dy = rng.standard_normal((2, 2048, 2100)).astype(dtype)
    vectors = rng.standard_normal((6, 2100)).astype(dtype)
    slope = dtype(0.1)
    y, dx = placed(np.zeros_like(x), 3), placed(np.zeros_like(x), 3)
    batchnorm_nc.affine_activation_nc(x, *vectors[:3], slope, y)
    norm = Norm(*vectors[:4])
    batchnorm_nc.chunk_gradient_input_nc(dy, x, norm, slope, 0, vectors[4:], dx)
    rows = int(statistics_nc.rows_per_chunk(2100))
    few = np.zeros((2, rows, 2100), dtype)
    assert few[0].nbytes < streams.STREAM_BYTES <= x.nbytes
    batchnorm_nc.affine_activation_nc(x[:rows], *vectors[:3], slope, few[0])
    arguments = dy[:rows], x[:rows], norm, slope, 0, vectors[4:]
    batchnorm_nc.chunk_gradient_input_nc(*arguments, few[1])
    assert same(few, [y[:rows], dx[:rows]])


# -- elementwise loops: the whole row, or any two parts of it ------------------------------------

K = 150


def _rows(function, *arguments):
    """Turn a kernel on rows (C, N) into a function of one row per array."""
    return lambda *arrays: function(*(array[None] for array in arrays), *arguments)


def cuttable(dtype):
    """Return kernels by name: the number of arrays of K numbers, and a call on a part of these.

    A call gets the parts of the arrays and the position of their first number.
    """
    s, one, t = dtype(0.3), dtype(1), dtype(-0.7)
    steps = [0.9, 1e-3, 0.8, 0.9, 1e-6, 0.2, 0.1]
    vector, norm = np.full(1, s), Norm(s, t, one, s)

    def adam(p, g, m, v):
        optimizers.adam(p, g, m, v, *steps, 0.01, True, 0, p.size)

    def amsgrad(p, g, m, v, top):
        tensors.amsgrad(p, g, m, v, top, (*steps, False, 0.01), False, 0, p.size)

    def activate(name, first, a):
        elementwise.elementwise_forward(code(ElementwiseActivation, name), a)

    def differentiate(name, first, z, da):
        activation = code(ElementwiseActivation, name)
        elementwise.elementwise_backward(activation, z, s, t, one, da)

    def inference(x, y):
        batchnorm_cn.batch_norm_inference_cn(
            x[None, None], *[vector] * 4, 1e-5, t, 0, 1, y[None, None]
        )

    def gradient(da, z, dz):
        work = np.zeros(1, dtype)
        activations.bias_activation_backward_cn(da[None], z[None], vector, s, 0, 1, dz[None], work)

    return {
        "bias": (2, lambda first, z, a: activations.bias_activation_forward_cn(
            z[None], vector, t, 0, 1, a[None])),
        "bias, backward": (3, lambda first, *a: gradient(*a)),
        "inference": (2, lambda first, *a: inference(*a)),
        "dropout": (1, lambda first, x: activations.dropout(x, first, 0.4, np.uint64(9))),
        **{name: (1, functools.partial(activate, name)) for name in ACTIVATIONS},
        **{f"{name}, backward": (2, functools.partial(differentiate, name))
           for name in ACTIVATIONS},
        "sigmoid": (1, lambda first, z: losses.sigmoid(z)),
        "weighted": (4, lambda first, *a: batchnorm_weighted.weighted_row_gradient_input(
            *a[:3], norm, t, one, s, a[3])),
        "stream": (2, lambda first, x, y: activations.stream_affine_activation(
            x, s, t, one, s, y)),
        "stream, backward": (3, lambda first, dy, x, dx: batchnorm_cn.stream_gradient_input(
            dy, x, norm, t, one, s, dx)),
        "scaling": (4, lambda first, x, c, f, y: preprocessing.scale_rows(
            x[None], c, f, s, y[None])),
        "running": (4, lambda first, mean, var, a, b: running.update_running_statistics(
            mean, var, 30, 0.1, True, a, b)),
        "adam": (4, lambda first, *a: adam(*a)),
        "amsgrad": (5, lambda first, *a: amsgrad(*a)),
        "sgd": (3, lambda first, p, g, m: optimizers.sgd(
            p, g, m, 0.9, 0.1, 0.8, True, 0.01, 0, p.size)),
        "rmsprop": (3, lambda first, p, g, v: optimizers.rmsprop(
            p, g, v, 0.9, 0.1, 0.8, 1e-6, 0.01, 0, p.size)),
        "sigmoid loss": (2, lambda first, z, t: losses.sigmoid_cross_entropy_cn(
            z[None], np.full(z.size, s), 0.1, 0, z.size, t[None])),
        "squared error": (2, lambda first, z, t: losses.squared_error_cn(
            z[None], np.full(z.size, s), 0, z.size, t[None])),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cuttable(np.float64))
def test_any_cut(rng, name, dtype):
    count, call = cuttable(dtype)[name]
    given = np.abs(rng.standard_normal((count, K))).astype(dtype)
    if count < 4:  # no second moments: any sign is valid
        given *= rng.choice([-1, 1], (count, K)).astype(dtype)
    expected = given.copy()
    call(0, *expected)
    assert not same([expected], [given])
    for number, cut in enumerate(CUTS):
        start = STARTS[number % len(STARTS)]
        arrays = [placed(array, start + n) for n, array in enumerate(given)]
        call(0, *(array[:cut] for array in arrays))
        call(cut, *(array[cut:] for array in arrays))
        assert same(arrays, expected), cut


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_cut_of_the_samples_of_a_loss(rng, dtype):
    logits = rng.standard_normal((7, K)).astype(dtype)
    labels, weight = rng.integers(0, 7, K), np.full(K, dtype(1 / K))
    expected = np.empty_like(logits)

    def loss(start, stop, out, where=0):
        work = placed(np.empty((3, K), dtype), where)
        losses.softmax_cross_entropy_cn(
            placed(logits, where), labels, weight, 0.1, start, stop, work, out
        )

    loss(0, K, expected)
    rows = np.ascontiguousarray(logits.T)
    by_rows, probabilities = np.empty_like(rows), rows.copy()
    losses.softmax_cross_entropy_nc(rows, labels, weight, 0.1, by_rows)
    losses.softmax_nc(probabilities)
    for cut in CUTS:
        out = placed(np.empty_like(logits), cut % 7)
        loss(0, cut, out, cut % 5)
        loss(cut, K, out, cut % 3)
        assert same([out], [expected]), cut
        part, alone = np.empty_like(rows[cut:]), placed(rows[cut:], cut % 7)
        losses.softmax_cross_entropy_nc(rows[cut:], labels[cut:], weight[cut:], 0.1, part)
        losses.softmax_nc(alone)
        assert same([part, alone], [by_rows[cut:], probabilities[cut:]]), cut


def test_rows_of_bytes(rng):
    """Bytes are gathered as the same numbers in float32 are, wherever they begin."""
    x = rng.integers(0, 256, (300, 37)).astype(np.uint8)
    order, (center, scale) = rng.permutation(300)[:131], rng.random((2, 37), np.float32)

    def gathered(x):
        rows, panels = np.zeros((131, 37), np.float32), np.zeros(131 * 64, np.float32)
        preprocessing.gather_rows(x, order, 0, 131, center, scale, rows)
        preprocessing.gather_panels(x, order, 0, 131, center, scale, 0, 37, panels)
        return rows, panels

    expected = gathered(x.astype(np.float32))
    assert expected[1].any()
    for start in STARTS:
        assert same(gathered(placed(x, start)), expected)


NETWORKS = [
    {},
    {"weighted": True, "optimizer": "rmsprop", "input_normalization": "zscore"},
    {"activation": "tanh", "dropout": 0.3, "optimizer": "sgd", "nesterov": True},
    {"batch_norm": False, "loss": "sigmoid_cross_entropy", "optimizer": "adamw"},
    {"loss": "squared_error", "activation": "logistic", "max_norm": 0.5, "gradient": "detached"},
    {"label_smoothing": 0.1, "weight_decay": 0.1, "input_normalization": "minmax"},
]
for option, names in (("activation", ACTIVATIONS), ("optimizer", get_args(Optimizer)[1:])):
    known = {network.get(option) for network in NETWORKS}
    NETWORKS += [{option: name} for name in names if name not in known]


@pytest.mark.filterwarnings("ignore:the fit ends worse")  # after two epochs
@pytest.mark.parametrize(
    ("data", "dtype"),
    [("uint8", np.float32), ("float32", np.float32), ("float64", np.float64)],
)
@pytest.mark.parametrize("options", NETWORKS)
def test_training_and_inference(rng, monkeypatch, options, data, dtype):
    x = rng.integers(0, 255, (300, 37)).astype(data)
    y = rng.integers(0, 3, 300)
    if "loss" in options:
        y = (np.arange(3) == y[:, None]).astype(dtype)
    results = []
    for number, start in zip([1, 2, 3, 1], STARTS, strict=False):
        monkeypatch.setenv("FASTBN_NUM_THREADS", str(number))
        # 130 units in the first layer: three members keep their rows from step to step
        model = fastbn.BatchNormMLP((37, 200, 33, 3), dtype=dtype.__name__, seed=1, **options)
        weight = placed(np.linspace(0, 2, 300).astype(dtype), start)
        there = placed(x, start)
        history = model.fit(there, y, epochs=2, batch_size=130, sample_weight=weight)
        logits = model.predict_logits(there)  # by one thread
        alone = [model.predict_logits(there[n : n + 1]) for n in range(0, 300, 97)]
        assert same(np.concatenate(alone), logits[::97])
        monkeypatch.setattr(team_size, "SMALL_PREDICTION_FLOPS", 0)
        for few in (2, 50, 300):  # several threads share the units, or the samples
            assert same(model.predict_logits(there[:few]), logits[:few])
        results.append((model.params, model.running_var, history.loss, logits))
    for other in results[1:]:
        assert same(other, results[0])
