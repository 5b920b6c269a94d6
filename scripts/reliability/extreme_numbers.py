"""Numbers at the ends of what a dtype holds, and many of them: each result beside the oracle's.

The oracle (`fastbn.reference`) computes in float64, of the very numbers that fastbn is given, less
the first sample where a shift changes nothing: its own rounding would be seen otherwise.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from trial import Trial

import fastbn
from fastbn import reference as ref
from fastbn.reference import mlp

Array = np.ndarray
Generator = np.random.Generator

# As in tests/cases.py, where they were measured on numbers of usual sizes; relative here to the
# largest magnitude of the same feature, and not of the whole array.
TOLERANCE = {"float32": 2e-6, "float64": 5e-14}

# A variance is a sum of numbers that are all positive: where there are but a few of them, each sum
# is rounded in the same direction. 128 of them on end are an error of 128 / 2 * eps / 2 at most.
VARIANCE = {"float32": 2e-6 + 32 * 2.0**-23, "float64": 5e-14}

# Some of the smallest numbers above 0: results near them have few digits.
DENORMAL = 1e-44

MANY = 10_000_000


def tolerance(x: Array) -> float:
    """Return the relative error that an array's dtype permits."""
    return TOLERANCE[x.dtype.name]


def near(what: str, got: Any, expected: Any, error: Any) -> None:
    """Refuse a result that differs from the oracle's by more than `error`, or is no number."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    excess = np.abs(got - expected) - np.broadcast_to(error, expected.shape)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, not {expected.shape}"
    if not (excess <= 0).all():
        at = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), got.shape)
        raise AssertionError(f"{what}: got {got[at]!r} at {at}, the oracle has {expected[at]!r}")


# -- data ------------------------------------------------------------------------------------------

Column = Callable[[Generator, int], Array]

CONSTANTS = [0.0, 0.1, -1 / 3, 1e30, 1e-30, 12345678901.0, 1e38, 1e-40]

COLUMNS: dict[str, Column] = {
    "constant": lambda rng, n: np.full(n, rng.choice(CONSTANTS)),
    "usual": lambda rng, n: rng.standard_normal(n),
    "1e30": lambda rng, n: 1e30 * rng.standard_normal(n),
    "1e36": lambda rng, n: 1e36 * rng.uniform(-1, 1, n),
    "1e-30": lambda rng, n: 1e-30 * rng.standard_normal(n),
    "denormal": lambda rng, n: 1e-40 * rng.standard_normal(n),
    "all sizes": lambda rng, n: rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-37, 36, n),
    "one large": lambda rng, n: np.where(np.arange(n) == n // 2, 1e30, rng.standard_normal(n)),
    "large mean": lambda rng, n: 1e4 + 1e-2 * rng.standard_normal(n),
    "large mean of 1e30": lambda rng, n: 1e30 * (1 + 1e-5 * rng.standard_normal(n)),
    "two values": lambda rng, n: rng.choice([0.1, 0.3], n),
}


def draw(rng: Generator, n: int, c: int, dtype: Any, names: list[str] | None = None) -> Array:
    """Draw features (n, c), each of some kind."""
    kinds = [COLUMNS[rng.choice(names or list(COLUMNS))] for _ in range(c)]
    return np.stack([kind(rng, n) for kind in kinds], axis=1).astype(dtype)


def draw_any(rng: Generator) -> tuple[Array, str]:
    """Draw a matrix (N, C) of any kind, tall or small, and a layout."""
    n = int(rng.choice([2, 3, 5, 7, 64, 513, 5000, 70_000]))
    c = int(rng.choice([1, 1, 3, 32, 67])) if n < 10_000 else 3
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    return draw(rng, n, c, dtype), str(rng.choice(["NC", "CN"]))


def turned(x: Array, layout: str) -> Array:
    """Return x (N, C) in a layout; of a result in that layout it is the way back."""
    return x if layout == "NC" else np.ascontiguousarray(x.T)


def exact_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and variance of each column, by the oracle and free of the first sample's size."""
    origin = x[0].astype(np.float64)
    mean, var = ref.batch_statistics(turned(x - origin, "CN"), "CN")  # rows are added in pairs
    return mean + origin, var


# -- the NumPy API ---------------------------------------------------------------------------------


def statistics(rng: Generator) -> str:
    """Mean and variance; one beyond the dtype is infinite."""
    x, layout = draw_any(rng)
    mean, var = fastbn.batch_statistics(turned(x, layout), layout=layout)
    check_statistics(x, mean, var)
    return "statistics as the oracle's"


def check_statistics(x: Array, mean: Array, var: Array) -> None:
    """The error of a mean is one of its own rounding, and of sums of what is off the mean."""
    expected, expected_var = exact_statistics(x)
    off = np.abs(x - expected).max(axis=0)
    rounding = np.finfo(x.dtype).eps * np.abs(expected)
    near("mean", mean, expected, tolerance(x) * off + rounding + DENORMAL)
    fits = expected_var < np.finfo(x.dtype).max
    rounding = np.finfo(np.float64).eps * np.abs(expected)  # float64 has no wider shift
    error = VARIANCE[x.dtype.name] * expected_var + rounding**2 + DENORMAL
    near("var", var[fits], expected_var[fits], error[fits])
    assert np.isposinf(var[~fits]).all(), f"var: got {var[~fits]}, which no {x.dtype} holds"


def batch_norm(rng: Generator) -> str:
    """Forward and backward; with an eps of 0, too, where the oracle has an inverse."""
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
    # the way back is given mean and rstd as they are rounded; where rounding decides the sign of
    # the activation's input, its slope is anybody's guess
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
    """Running statistics of the same sizes, as far as the dtype holds them."""
    x, layout = draw_any(rng)
    mean, var = (np.minimum(s, 1e38).astype(x.dtype) for s in exact_statistics(x))
    beta = rng.standard_normal(x.shape[1]).astype(x.dtype)
    y = fastbn.batch_norm_inference(turned(x, layout), mean, var, None, beta, layout=layout)
    expected = ref.batch_norm_inference(x, mean, var, np.ones(x.shape[1]), beta)
    largest = np.abs(expected - beta).max(axis=0) + np.abs(beta)
    near("y", turned(y, layout), expected, tolerance(x) * largest)
    return "inference as the oracle's"


def scaling(rng: Generator) -> str:
    """Z-scores and min-max; what has no inverse in the dtype is taken for constant."""
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
    """Softmax, sigmoid and squared error, with smoothing and weights."""
    n, c = int(rng.choice([2, 3, 64, 3000])), int(rng.choice([1, 2, 10]))
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    layout, smoothing = str(rng.choice(["NC", "CN"])), float(rng.choice([0.0, 0.1, 1.0]))
    z = draw(rng, c, n, dtype, LOGITS).T.copy()  # each sample of some kind
    weight = None if rng.random() < 0.5 else rng.uniform(0, 2, n) + 1e-3
    share = np.ones(n) / n if weight is None else weight / weight.sum()
    labels, targets = rng.integers(0, c, n), rng.uniform(0, 1, (n, c)).astype(dtype)
    t, given, wide = tolerance(z), turned(z, layout), z.astype(np.float64)
    options = {"layout": layout, "sample_weight": weight}
    smooth = {**options, "label_smoothing": smoothing}
    loss, d = fastbn.softmax_cross_entropy(given, labels, **smooth)
    expected, expected_d = ref.softmax_cross_entropy(given, labels, **smooth)
    spread = (wide.max(axis=1, keepdims=True) - wide).sum(axis=1)
    near("softmax's loss", loss, expected, t * (share @ (1 + spread)))
    near("softmax's gradient", d, expected_d, t * share.max())
    targets_given = turned(targets, layout)
    loss, d = fastbn.sigmoid_cross_entropy(given, targets_given, **smooth)
    expected, expected_d = ref.sigmoid_cross_entropy(given, targets_given, **smooth)
    size = (1 + np.abs(wide)).sum(axis=1)
    near("sigmoid's loss", loss, expected, t * (share @ size))
    near("sigmoid's gradient", d, expected_d, t * share.max())
    loss, d = fastbn.squared_error(given, targets_given, **options)
    expected, expected_d = ref.squared_error(given, targets_given, **options)
    near("the squared error", loss, expected, t * (share @ size**2))
    near(
        "its gradient",
        turned(d, layout),
        turned(expected_d, layout),
        t * share[:, None] * (1 + np.abs(wide)),
    )
    return "losses as the oracle's"


def impossible_classes(rng: Generator) -> str:
    """A logit of -inf says that a class cannot be: it has no gradient, and no loss but its own."""
    n, c = 50, 7
    z, labels = rng.standard_normal((n, c)).astype(np.float32), rng.integers(0, c, n)
    possible = rng.random((n, c)) < 0.7
    possible[np.arange(n), labels] = True
    layout = str(rng.choice(["NC", "CN"]))
    loss, d = fastbn.softmax_cross_entropy(
        turned(np.where(possible, z, -np.inf), layout), labels, layout=layout
    )
    expected, expected_d = ref.softmax_cross_entropy(np.where(possible, z, -1e6), labels)
    near("loss", loss, expected, 2e-6 * expected)
    near("gradient", turned(d, layout), expected_d, 2e-6 / n)
    return "classes of -inf left out"


STEPS: dict[str, tuple[Any, Any]] = {
    "adam": (fastbn.adam_step, ref.adam_step),
    "rmsprop": (fastbn.rmsprop_step, ref.rmsprop_step),
    "sgd": (fastbn.sgd_step, ref.sgd_step),
}


def optimizers(rng: Generator) -> str:
    """Ten steps, with gradients of all sizes whose squares the dtype holds, or clipped ones."""
    name = str(rng.choice(list(STEPS)))
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    clips = rng.random() < 0.3
    largest = 30 if dtype == np.float64 or name == "sgd" or clips else 18
    step, expected_step = STEPS[name]
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
    """Squares beyond float32 are infinite, as in PyTorch: Adam leaves such a parameter alone."""
    param, grad = rng.standard_normal((2, 100)).astype(np.float32)
    before, m, v = param.copy(), np.zeros_like(param), np.zeros_like(param)
    fastbn.adam_step(param, grad * np.float32(1e30), m, v, step=1)
    assert np.isposinf(v).all()
    assert np.array_equal(param, before)
    return "moments beyond float32 infinite"


def running(rng: Generator) -> str:
    """Ten thousand updates: each is rounded once, and forgotten as the weights say."""
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


# -- the model -------------------------------------------------------------------------------------

SIZES = (6, 8, 5, 3)


def training(rng: Generator) -> str:
    """Steps of the model, each from its own parameters: loss, gradients, running statistics.

    A kernel's tolerance in data, weights and activations moves the oracle, too: two samples that
    are near each other leave no more digits. The numbers may lie three times as far off.
    """
    dtype = "float32" if rng.random() < 0.8 else "float64"
    mode = [None, "zscore", "minmax"][rng.integers(3)]
    # not a large mean: docs/design.md says what the way back through an unscaled one loses
    names = list(COLUMNS) if mode else ["usual", "1e-30", "denormal", "two values"]
    model = fastbn.BatchNormMLP(
        SIZES, input_normalization=mode, dtype=dtype, batch_norm=bool(rng.random() < 0.8),
        activation=str(rng.choice(["tanh", "identity"])), weighted=bool(rng.random() < 0.3),
        seed=int(rng.integers(1000)), max_norm=1.0,
    )  # fmt: skip
    data = draw(rng, 500, SIZES[0], dtype, names)
    labels = rng.integers(0, SIZES[-1], 500)
    weight = rng.uniform(0.5, 2, 500) if model.config.weighted else None
    samples = model.training_samples(data, labels, weight)
    for _ in range(3):
        rows = rng.choice(500, int(rng.choice([2, 3, 32, 500])), replace=False)
        step = Step(model, samples, rows)
        loss, _ = model.run_steps(samples, rows, np.array([0, rows.size]), np.array([1e-3]))
        step.check(rng, [loss, *(view for _, view in model.named_gradients()), *step.running()])
    assert model.is_finite()
    assert np.isfinite(model.predict_logits(data)).all()
    return "training steps as the oracle's"


class Step:
    """A step that a model is about to take, for the oracle to take first."""

    def __init__(self, model: Any, samples: Any, rows: Array) -> None:
        samples = samples.arrays
        self.model, self.labels = model, samples.labels[rows]
        self.weight = samples.weight[rows] if model.config.weighted else None
        x = samples.x[rows].astype(np.float64) - samples.center
        self.x = x * samples.scale.astype(np.float64)
        self.params = {name: view.astype(np.float64) for name, view in model.named_parameters()}
        self.before = self.running()

    def running(self) -> list[Array]:
        """Return the running statistics, where there are any."""
        both = self.model.running_mean.copy(), self.model.running_var.copy()
        return list(both) if self.model.config.batch_norm else []

    def expected(
        self, params: dict[str, Array], x: Array, masks: list[Array] | None = None
    ) -> list[Array]:
        """Loss, gradients and running statistics of the oracle."""
        config, weight = self.model.config, self.weight
        logits, caches = mlp.forward(
            params, x, slope=config.slope, curve=config.curve, eps=config.eps, masks=masks,
            sample_weight=weight,
        )  # fmt: skip
        loss, dlogits = ref.softmax_cross_entropy(logits, self.labels, "CN", weight)
        grads = mlp.backward(params, caches, dlogits, masks=masks)
        self.sizes = self.gradient_sizes(params, caches, dlogits)
        result = [np.array([loss]), *(grads[name] for name, _ in self.model.named_parameters())]
        if config.batch_norm:
            mean, var = (np.concatenate([c[name] for c in caches]) for name in ("mean", "var"))
            result += ref.update_running_statistics(*self.before, mean, var, len(x))
        return result

    def gradient_sizes(
        self, params: dict[str, Array], caches: list[dict[str, Any]], dlogits: Array
    ) -> list[Array]:
        """Sums of magnitudes, where a gradient is a sum: for two samples there is nothing left."""
        sizes, da, n = {}, np.abs(dlogits), dlogits.shape[1]
        for index in range(len(caches) - 1, -1, -1):
            cache, name, dz = caches[index], f"layers.{index}", da
            if "mean" in cache:
                rstd = cache["rstd"][:, None]
                xhat = np.abs(cache["z"] - cache["mean"][:, None]) * rstd
                dgamma, dbeta = (da * xhat).sum(axis=1), da.sum(axis=1)
                means = (dbeta[:, None] + xhat * dgamma[:, None]) / n
                dz = np.abs(params[f"{name}.gamma"])[:, None] * rstd * (da + 2 * means)
                sizes |= {f"{name}.gamma": dgamma, f"{name}.beta": dbeta}
            else:
                sizes[f"{name}.bias"] = da.sum(axis=1)
            sizes[f"{name}.weight"] = dz @ np.abs(cache["a_prev"]).T
            da = np.abs(params[f"{name}.weight"]).T @ dz
        return [sizes[name].max() for name, _ in self.model.named_parameters()]

    def check(self, rng: Generator, got: list[Array]) -> None:
        """Compare the model's numbers with the oracle's, and those with others nearby."""
        expected = self.expected(self.params, self.x)
        sizes = [0.0, *self.sizes, *(np.abs(values).max() for values in expected[-2:])]
        t = TOLERANCE[self.model.config.dtype]

        def rounded(array: Array) -> Array:
            return array * (1 + t * rng.uniform(-1, 1, array.shape))

        moved = [0.0] * len(expected)
        for _ in range(4):
            params = {name: rounded(values) for name, values in self.params.items()}
            masks = [rounded(np.ones((n, len(self.x)))) for n in SIZES[1:-1]]
            others = self.expected(params, rounded(self.x), masks)
            changes = [np.abs(a - b).max() for a, b in zip(others, expected, strict=True)]
            moved = np.maximum(moved, changes)
        for index, (values, wanted) in enumerate(zip(got, expected, strict=True)):
            error = t * max(sizes[index], 1.0) + 3 * moved[index]
            near(f"number {index} of a step of {len(self.x)}", values, wanted, error)


def fits(rng: Generator) -> str:
    """Whole fits: scaled data of any size trains, and what no running variance holds is refused."""
    x = draw(rng, 200, 4, np.float32, ["1e30", "constant", "usual", "1e-30", "large mean"])
    x[:, 0] = 1e30 * rng.standard_normal(200)
    y = (x[:, 0] > 0).astype(np.int64)
    mode = [None, "zscore", "minmax"][rng.integers(3)]
    model = fastbn.BatchNormMLP((4, 8, 2), input_normalization=mode, seed=int(rng.integers(1000)))
    before, layer, history = model.params.copy(), "", None
    try:
        history = model.fit(x, y, epochs=3, batch_size=50, progress=False)
    except fastbn.DivergenceError as error:
        layer = error.layer
    if mode is None:
        assert history is None
        assert layer == "layers.0", layer
        assert np.array_equal(model.params, before)
        assert model.is_finite()
        return "1e30 unscaled refused, the layer named"
    assert history is not None, layer
    assert np.isfinite(history.loss).all()
    logits = model.predict_logits(x)
    wide = (x.astype(np.float64) - model.scaling.center) * model.scaling.scale.astype(np.float64)
    running = {
        f"{name}.{which}": model.layout.view(getattr(model, which), *place)
        for name, place in model.layout.statistics_places.items()
        for which in ("running_mean", "running_var")
    }
    expected = mlp.infer(dict(model.named_parameters()), running, wide, slope=model.config.slope)
    near("logits", logits.T, expected, 1e-5 * np.abs(expected).max())
    return "fits of scaled data finite"


# -- ten million rows ------------------------------------------------------------------------------


def ten_million(rng: Generator) -> str:
    """Sums of ten million rows: blocks in float32, and totals in float64, lose no more than few."""
    x = np.empty((MANY, 3), np.float32)
    x[:, 0] = rng.standard_normal(MANY, np.float32)
    kind = rng.integers(3)
    x[:, 1] = 0.1 if kind == 0 else x[::-1, 0] * [0, 1e-2, 1e30][kind] + [0, 1e4, 0][kind]
    x[:, 2] = np.where(rng.random(MANY) < 0.5, 1.1, -1.1)  # whose roundings go one way
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
    statistics, batch_norm, inference, scaling, training, batch_norm, losses, optimizers, training,
    batch_norm, fits, impossible_classes, gradients_beyond,
]  # fmt: skip
COUNT = 600


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Kinds of cases in turns; some long ones among them, and the longest at the end."""
    many = 3 if count == COUNT else 0
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        case = running if index % 40 == 20 else CASES[index % len(CASES)]
        case = ten_million if index >= count - many else case
        try:
            with np.errstate(all="ignore"):
                outcome = case(rng)
        except AssertionError as error:
            raise AssertionError(f"case {index}, {case.__name__}: {error}") from error
        yield outcome


TRIAL = Trial(
    "numbers",
    "Constant, denormal, huge and tiny data, batches of 2 and 10 million rows come out as the "
    "float64 oracle's, or are refused.",
    COUNT,
    cases,
)
