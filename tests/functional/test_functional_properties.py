"""The NumPy API on arrays of any shape, layout, strides and dtype, against the oracle."""

from __future__ import annotations

import numpy as np
from cases import DTYPES, JIT_DISABLED, assert_close, features, over_samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastbn
from fastbn import reference as ref

SIZES = [1, 2, 3, 5, 7, 13, 16, 31] if JIT_DISABLED else [1, 2, 3, 5, 7, 13, 16, 31, 64, 127, 257]
SLOPES = {None: 1.0, "relu": 0.0, "leaky_relu": 0.1}

# Sums of differences of large, rounded numbers, above all of a few samples close together.
LOSS_TOLERANCE = {"float32": 2e-6, "float64": 1e-13}

properties = settings(
    max_examples=20 if JIT_DISABLED else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
draws = given(data=st.data())


class Draw:
    """Draw numbers, and place them in memory."""

    def __init__(self, data):
        self.data = data
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
        self.dtype = np.dtype(self.one_of(*DTYPES))

    def one_of(self, *values):
        return self.data.draw(st.sampled_from(values))

    def number(self, low, high):
        return self.data.draw(st.floats(low, high))

    def shape(self, *, least=1):
        """Draw a layout and a shape with at least this many values per feature."""
        layout = self.one_of("NC", "CN")
        n, c = self.one_of(*SIZES), self.one_of(*SIZES)
        spatial = [self.one_of(1, 2, 5, 7) for _ in range(self.one_of(0, 0, 1, 2))]
        if layout == "CN":
            return layout, (c, max(n, least))
        if spatial:
            n, c = min(n, 13), min(c, 31)
        n = max(n, least) if np.prod(spatial, dtype=int) < least else n
        return layout, (n, c, *spatial)

    def batch(self, shape):
        """Draw the numbers of a batch."""
        offset, scale = self.number(-5.0, 5.0), self.number(0.5, 5.0)
        return (offset + scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def uniform(self, *shape):
        return self.rng.uniform(0.1, 2.0, shape).astype(self.dtype)

    def room(self, shape):
        """Draw an array to write to: contiguous, or a view of some kind."""
        kind = self.one_of("plain", "reversed", "fortran", "every other", "at an odd byte")
        if kind == "fortran":
            return np.full(shape, np.nan, self.dtype, order="F")
        if kind == "at an odd byte":
            memory = np.zeros(int(np.prod(shape)) * self.dtype.itemsize + 1, np.uint8)
            return memory[1:].view(self.dtype).reshape(shape)
        if kind == "every other":
            wide = np.full([2 * size + 1 for size in shape], np.nan, self.dtype)
            return wide[(..., *(slice(1, None, 2) for _ in shape))]
        room = np.full(shape, np.nan, self.dtype)
        return room[(..., *(slice(None, None, -1) for _ in shape))] if kind == "reversed" else room

    def state(self, values):
        """Place the numbers in writeable memory."""
        room = self.room(values.shape)
        room[...] = values
        return room

    def placed(self, values):
        """Place the numbers in memory of any kind."""
        kind = self.one_of("a state", "swapped", "read-only", "a list")
        if kind == "swapped":
            return values.astype(values.dtype.newbyteorder("S"))
        if kind == "a list" and values.dtype == np.float64 and values.size:
            return values.tolist()
        array = self.state(values)
        if kind == "read-only":
            array.flags.writeable = False
        return array

    def out(self, x):
        """Draw (x, out): None, another array, x itself, or memory that overlaps x."""
        kind = self.one_of("none", "none", "a room", "x", "half of x")
        if kind == "a room":
            return x, self.room(np.shape(x))
        if kind == "x" and isinstance(x, np.ndarray) and x.flags.writeable and x.dtype.isnative:
            return x, x
        if kind == "half of x":
            shape = np.shape(x)
            memory = np.zeros((shape[0] + shape[0] // 2, *shape[1:]), self.dtype)
            memory[: shape[0]] = x
            return memory[: shape[0]], memory[shape[0] // 2 :][: shape[0]]
        return x, None


def assert_untouched(arrays, copies):
    for array, copy in zip(arrays, copies, strict=True):
        assert np.array_equal(np.asarray(array), copy), "an input was changed"


def delivered(result, out):
    """Return the result, which has to be in the caller's array."""
    assert out is None or result is out
    return np.array(result)


@properties
@draws
def test_batch_statistics(data):
    draw = Draw(data)
    layout, shape = draw.shape()
    x = draw.batch(shape)
    given_x = draw.placed(x)
    mean, var = fastbn.batch_statistics(given_x, layout=layout)
    assert_untouched([given_x], [x])
    expected_mean, expected_var = ref.batch_statistics(x, layout)
    largest = np.abs(x).max() + 1.0
    assert mean.dtype == var.dtype == draw.dtype
    assert_close(mean, expected_mean, scale=largest)
    assert_close(var, expected_var, scale=largest**2)


@properties
@draws
def test_batch_norm_and_its_gradient(data):
    draw = Draw(data)
    layout, shape = draw.shape(least=2)
    c, activation, eps = features(shape, layout), draw.one_of(*SLOPES), draw.number(1e-3, 0.1)
    options = {"layout": layout, "activation": activation, "negative_slope": 0.1}
    x, gamma, beta = draw.batch(shape), draw.normal(c), draw.normal(c)
    vectors = draw.placed(gamma), draw.placed(beta)
    given_x, out = draw.out(draw.placed(x))
    y, mean, rstd = fastbn.batch_norm(given_x, *vectors, eps=eps, out=out, **options)
    y = delivered(y, out)
    assert_untouched(vectors, [gamma, beta])
    if out is None:
        assert_untouched([given_x], [x])
    expected = ref.batch_norm(x, gamma, beta, eps, SLOPES[activation], layout)
    # y = (x - mean) * rstd: rstd magnifies the rounding of x - mean
    span = (np.abs(x).max() + 1.0) * eps**-0.5
    assert y.dtype == mean.dtype == rstd.dtype == draw.dtype
    assert_close(y, expected[0], scale=span * (np.abs(gamma).max() + 1.0))
    assert_close(mean, expected[1], scale=span)
    assert_close(rstd, expected[2], scale=span**2)

    dy = draw.normal(*shape)
    # leave out values where rounding decides the sign of the activation's input
    linear = ref.batch_norm_inference(
        x, mean, np.float64(rstd) ** -2, gamma, beta, 0.0, 1.0, layout
    )
    dy[np.abs(linear) < 1e-4 * span] = 0
    given_x, out = draw.out(draw.placed(x))
    inputs = draw.placed(dy), given_x, *vectors, draw.placed(mean), draw.placed(rstd)
    gradient = draw.one_of("exact", "detached")
    dx, dgamma, dbeta = fastbn.batch_norm_backward(*inputs, gradient=gradient, out=out, **options)
    dx = delivered(dx, out)
    if out is None:
        assert_untouched(inputs, [dy, x, gamma, beta, mean, rstd])
    expected = ref.batch_norm_backward(
        dy, x, gamma, beta, mean, rstd, SLOPES[activation], layout, gradient
    )
    magnitude = over_samples(np.abs(np.float64(dy)), layout, np.sum)
    largest = 1.0 + (np.abs(x).max() + np.abs(mean).max()) * np.abs(rstd).max()
    assert dx.dtype == dgamma.dtype == dbeta.dtype == draw.dtype
    assert_close(dbeta, expected[2], scale=magnitude)
    assert_close(dgamma, expected[1], scale=magnitude * largest)
    of_dx = np.abs(np.float64(gamma) * rstd).max() * (np.abs(dy).max() + 1.0)
    assert_close(dx, expected[0], scale=of_dx * largest**2)


@properties
@draws
def test_batch_norm_inference(data):
    draw = Draw(data)
    layout, shape = draw.shape()
    c, activation, eps = features(shape, layout), draw.one_of(*SLOPES), draw.number(0.0, 0.1)
    x, mean, gamma, beta = draw.batch(shape), *draw.normal(3, c)
    var = draw.uniform(c)
    vectors = [draw.placed(vector) for vector in (mean, var, gamma, beta)]
    given_x, out = draw.out(draw.placed(x))
    y = fastbn.batch_norm_inference(
        given_x, *vectors, eps=eps, layout=layout, activation=activation, negative_slope=0.1,
        out=out,
    )  # fmt: skip
    assert_untouched(vectors, [mean, var, gamma, beta])
    if out is None:
        assert_untouched([given_x], [x])
    expected = ref.batch_norm_inference(x, mean, var, gamma, beta, eps, SLOPES[activation], layout)
    scale = (np.abs(x).max() + np.abs(mean).max() + 1) * 0.1**-0.5 * (np.abs(gamma).max() + 1)
    assert y.dtype == draw.dtype
    assert_close(delivered(y, out), expected, scale=scale)


def of_samples(shape, layout):
    """Return the shape of an array with one value for each sample."""
    return shape[1:] if layout == "CN" else (shape[0], *shape[2:])


def check_loss(draw, actual, expected, largest):
    tolerance = LOSS_TOLERANCE[draw.dtype.name]
    assert abs(actual[0] - expected[0]) <= tolerance * max(1.0, abs(expected[0]))
    assert actual[1].dtype == draw.dtype
    assert_close(actual[1], expected[1], tolerance=tolerance, scale=largest)


@properties
@draws
def test_softmax_cross_entropy(data):
    draw = Draw(data)
    layout, shape = draw.shape()
    logits = draw.batch(shape)
    labels = draw.rng.integers(0, features(shape, layout), of_samples(shape, layout))
    weight = draw.one_of(None, draw.rng.uniform(0.1, 2.0, labels.shape))
    inputs = draw.placed(logits), labels.astype(draw.one_of("i8", ">i4", "u2"))
    options = {
        "layout": layout, "label_smoothing": draw.number(0.0, 1.0),
        "sample_weight": None if weight is None else draw.placed(weight.astype(draw.dtype)),
    }  # fmt: skip
    actual = fastbn.softmax_cross_entropy(*inputs, **options)
    assert_untouched(inputs, [logits, labels])
    largest = 1.0 / labels.size if weight is None else weight.max() / weight.sum()
    check_loss(draw, actual, ref.softmax_cross_entropy(logits, labels, **options), largest)


@properties
@draws
def test_sigmoid_cross_entropy(data):
    draw = Draw(data)
    layout, shape = draw.shape()
    logits, targets = draw.batch(shape), draw.rng.uniform(0, 1, shape).astype(draw.dtype)
    weight = draw.one_of(None, draw.rng.uniform(0.1, 2.0, of_samples(shape, layout)))
    inputs = draw.placed(logits), draw.placed(targets)
    options = {
        "layout": layout, "label_smoothing": draw.number(0.0, 1.0), "sample_weight": weight
    }  # fmt: skip
    actual = fastbn.sigmoid_cross_entropy(*inputs, **options)
    assert_untouched(inputs, [logits, targets])
    samples = int(np.prod(of_samples(shape, layout)))
    largest = 1.0 / samples if weight is None else weight.max() / weight.sum()
    check_loss(draw, actual, ref.sigmoid_cross_entropy(logits, targets, **options), largest)


@properties
@draws
def test_squared_error(data):
    draw = Draw(data)
    layout, shape = draw.shape()
    outputs, targets = draw.batch(shape), draw.batch(shape)
    weight = draw.one_of(None, draw.rng.uniform(0.1, 2.0, of_samples(shape, layout)))
    inputs = draw.placed(outputs), draw.placed(targets)
    options = {"layout": layout, "sample_weight": weight}
    actual = fastbn.squared_error(*inputs, **options)
    assert_untouched(inputs, [outputs, targets])
    samples = int(np.prod(of_samples(shape, layout)))
    largest = 1.0 / samples if weight is None else weight.max() / weight.sum()
    distance = np.abs(outputs - targets).max() + 1.0
    check_loss(draw, actual, ref.squared_error(outputs, targets, **options), largest * distance)


def check_step(draw, step, reference_step, names, root_of=None):
    """Take a step on states in memory of any kind; memory between their numbers must not change.

    `root_of` returns the divisor of a step, given the new v. If it is small, it magnifies the
    rounding error of grad + weight_decay * param in the new parameters.
    """
    shape = tuple(draw.one_of(*SIZES[:6]) for _ in range(draw.one_of(0, 1, 2, 3)))
    values = {"param": draw.normal(*shape), "grad": draw.normal(*shape)}
    values |= {"m": draw.normal(*shape), "v": draw.uniform(*shape)}
    values = {name: values[name] for name in ("param", "grad", *names)}
    states = {name: draw.state(values[name]) for name in ("param", *names)}
    grad = draw.placed(values["grad"])
    options = {
        "lr": draw.number(0.0, 1.0),
        "weight_decay": draw.one_of(0.0, 0.1),
        "max_norm": draw.one_of(None, 0.5, 100.0),
    }
    expected = reference_step(**values, **options)
    assert step(grad=grad, **states, **options) is None
    assert_untouched([grad], [values["grad"]])
    for (name, state), wanted in zip(states.items(), expected, strict=True):
        scale = np.maximum(np.max(np.abs(wanted), initial=0.0), 1.0)
        if root_of is not None and name == "param":
            added = np.abs(values["grad"]) + options["weight_decay"] * np.abs(values["param"])
            scale = scale + options["lr"] * added / root_of(expected[-1])
        assert_close(state, wanted, scale=scale)
        if state.base is not None and state.base.dtype == state.dtype:
            outside = state.base.size - state.size
            assert np.isnan(state.base).sum() == outside, f"{name}: something else was written"


@properties
@draws
def test_adam_step(data):
    draw = Draw(data)
    more = {
        "step": draw.one_of(1, 2, 1000),
        "betas": (draw.number(0.0, 0.99), draw.number(0.0, 0.99)),
        "eps": draw.number(1e-8, 1e-3),
        "decoupled": draw.one_of(False, True),
    }
    check_step(
        draw,
        lambda **given: fastbn.adam_step(**given, **more),
        lambda **given: ref.adam_step(**given, **more),
        ("m", "v"),
        lambda v: np.sqrt(v / (1.0 - more["betas"][1] ** more["step"])) + more["eps"],
    )


@properties
@draws
def test_sgd_step(data):
    draw = Draw(data)
    more = {"momentum": draw.number(0.0, 0.99), "nesterov": draw.one_of(False, True)}
    check_step(
        draw,
        lambda **given: fastbn.sgd_step(**given, **more),
        lambda **given: ref.sgd_step(**given, **more),
        ("m",),
    )


@properties
@draws
def test_rmsprop_step(data):
    draw = Draw(data)
    more = {"alpha": draw.number(0.0, 0.99), "eps": draw.number(1e-8, 1e-3)}
    check_step(
        draw,
        lambda **given: fastbn.rmsprop_step(**given, **more),
        lambda **given: ref.rmsprop_step(**given, **more),
        ("v",),
        lambda v: np.sqrt(v) + more["eps"],
    )


def matrix(draw):
    """Draw a layout, and a two-dimensional batch."""
    layout = draw.one_of("NC", "CN")
    return layout, draw.batch((draw.one_of(*SIZES), draw.one_of(*SIZES)))


@properties
@draws
def test_min_max_scale(data):
    draw = Draw(data)
    layout, x = matrix(draw)
    low = draw.number(-2.0, 1.0)
    feature_range = low, low + draw.number(0.5, 3.0)
    statistics, names = None, ("minimum", "maximum")
    if draw.one_of(False, True):
        minimum = draw.normal(features(x.shape, layout))
        statistics = minimum, minimum + draw.uniform(minimum.size)
    more = {name: draw.placed(s) for name, s in zip(names, statistics or (), strict=False)}
    given_x, out = draw.out(draw.placed(x))
    y, *found = fastbn.min_max_scale(
        given_x, layout=layout, feature_range=feature_range, out=out, **more
    )
    expected = ref.min_max_scale(x, feature_range, layout, statistics)
    assert y.dtype == draw.dtype
    assert_close(delivered(y, out), expected, scale=np.abs(expected).max() + np.abs(x).max() + 1)
    for actual, wanted in zip(found, statistics or ref.min_max_fit(x, layout), strict=True):
        assert np.array_equal(actual, wanted)
        assert not any(np.shares_memory(actual, array) for array in (y, *more.values()))


@properties
@draws
def test_standardize(data):
    draw = Draw(data)
    layout, x = matrix(draw)
    statistics = None
    if draw.one_of(False, True):
        c = features(x.shape, layout)
        statistics = draw.normal(c), draw.uniform(c)
    more = {
        name: draw.placed(s) for name, s in zip(("mean", "std"), statistics or (), strict=False)
    }
    given_x, out = draw.out(draw.placed(x))
    y, mean, std = fastbn.standardize(given_x, layout=layout, out=out, **more)
    expected = ref.standardize(x, layout, statistics)
    # the mean is rounded to the dtype: y has that rounding error, divided by the deviation
    least = std[std > 0].min(initial=1.0)
    scale = (np.abs(x).max() + np.abs(mean).max() + 1.0) / np.float64(least)
    assert y.dtype == mean.dtype == std.dtype == draw.dtype
    assert_close(delivered(y, out), expected, scale=scale + scale**2 * np.finfo(draw.dtype).eps)
    wanted = statistics or ref.standard_fit(x, layout)
    assert_close(mean, wanted[0], scale=np.abs(x).max() + 1.0)
    assert_close(std, wanted[1], scale=np.abs(x).max() + 1.0)


@properties
@draws
def test_update_running_statistics(data):
    draw = Draw(data)
    c, n = draw.one_of(*SIZES), draw.one_of(1, 2, 31, 10**6)
    values = [draw.normal(c), draw.uniform(c), draw.normal(c), draw.uniform(c)]
    running = [draw.state(value) for value in values[:2]]
    batch = [draw.placed(value) for value in values[2:]]
    options = {
        "momentum": draw.one_of(None, 0.0, 0.1, 1.0),
        "num_batches_tracked": draw.one_of(0, 1, 1000),
        "unbiased": draw.one_of(False, True),
    }
    expected = ref.update_running_statistics(*values, n, **options)
    fastbn.update_running_statistics(*running, *batch, n, **options)
    assert_untouched(batch, values[2:])
    for actual, wanted in zip(running, expected, strict=True):
        assert_close(actual, wanted)


@properties
@draws
def test_fold_batch_norm(data):
    draw = Draw(data)
    kernel = [draw.one_of(1, 3) for _ in range(draw.one_of(0, 0, 1, 2))]
    c, k, eps = draw.one_of(*SIZES), draw.one_of(*SIZES[:6]), draw.number(0.0, 0.1)
    values = [draw.normal(c, k, *kernel), *draw.normal(3, c), draw.uniform(c)]
    inputs = [draw.placed(value) for value in values]
    folded, bias = fastbn.fold_batch_norm(*inputs, eps)
    assert_untouched(inputs, values)
    expected, expected_bias = ref.fold_batch_norm(*values, eps)
    assert folded.dtype == bias.dtype == draw.dtype
    assert_close(folded, expected)
    assert_close(bias, expected_bias)
