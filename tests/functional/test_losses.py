"""Losses: against the oracle, by finite differences, and at extreme values."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, JIT_DISABLED, assert_close

import fastbn
from fastbn import reference as ref
from fastbn.kernels.losses import (
    count_agreeing_cn,
    count_correct_cn,
    sigmoid,
    softmax_cross_entropy_cn,
    softmax_cross_entropy_nc,
    softmax_nc,
)

SHAPES = [("NC", (1, 1)), ("NC", (1, 2)), ("NC", (37, 10)), ("CN", (10, 37)), ("CN", (2, 1))]
SHAPES += [("NC", (5, 3, 7)), ("NC", (2, 4, 3, 5))]
if not JIT_DISABLED:
    SHAPES += [("NC", (1031, 17)), ("NC", (3, 4097)), ("CN", (1000, 129)), ("CN", (3, 6000))]


LOSSES = {
    "softmax_cross_entropy": (fastbn.softmax_cross_entropy, ref.softmax_cross_entropy),
    "sigmoid_cross_entropy": (fastbn.sigmoid_cross_entropy, ref.sigmoid_cross_entropy),
    "squared_error": (fastbn.squared_error, ref.squared_error),
}
SMOOTHED = [
    *[("softmax_cross_entropy", {"label_smoothing": s}) for s in (0.0, 0.1, 1.0)],
    *[("sigmoid_cross_entropy", {"label_smoothing": s}) for s in (0.0, 0.1)],
    ("squared_error", {}),
]


def make(rng, layout, shape, dtype):
    logits = (3 * rng.standard_normal(shape)).astype(dtype)
    classes = shape[1] if layout == "NC" else shape[0]
    label_shape = (shape[0], *shape[2:]) if layout == "NC" else (shape[1],)
    return logits, rng.integers(0, classes, label_shape)


@pytest.mark.parametrize(("name", "smoothing"), SMOOTHED)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "shape"), SHAPES)
def test_against_oracle(rng, layout, shape, dtype, weighted, name, smoothing):
    logits, targets = make(rng, layout, shape, dtype)
    weight = rng.uniform(0, 2, targets.shape) if weighted else None
    # a sample's gradient is at most its weight
    largest = 1.0 / targets.size if weight is None else float(weight.max() / weight.sum())
    if name != "softmax_cross_entropy":
        targets = rng.uniform(0, 1, shape).astype(dtype)
        largest *= max(1.0, float(np.abs(logits - targets).max()))
    options = {"layout": layout, "sample_weight": weight, **smoothing}
    ours, theirs = LOSSES[name]
    loss, gradient = ours(logits, targets, **options)
    expected, expected_gradient = theirs(logits, targets, **options)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    assert isinstance(loss, float)
    assert abs(loss - expected) <= tolerance * max(1.0, abs(expected))
    assert gradient.dtype == dtype
    assert gradient.flags.c_contiguous
    assert_close(gradient, expected_gradient, tolerance=tolerance, scale=largest)


@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_by_finite_differences(rng, name, layout):
    logits, targets = make(rng, layout, (7, 5) if layout == "NC" else (5, 7), np.float64)
    options = {"layout": layout, "sample_weight": rng.uniform(0.1, 2, 7)}
    if name == "softmax_cross_entropy":
        options["label_smoothing"] = 0.2
    else:
        targets = rng.uniform(0, 1, logits.shape)
    loss = LOSSES[name][0]
    _, gradient = loss(logits, targets, **options)
    numeric = np.empty_like(gradient)
    for index in np.ndindex(logits.shape):
        losses = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * 1e-6
            losses.append(loss(moved, targets, **options)[0])
        numeric[index] = (losses[0] - losses[1]) / 2e-6
    assert_close(gradient, numeric, tolerance=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoids_of_huge_logits_do_not_overflow(dtype):
    logits = np.array([[3e38, -3e38, 1e4, -1e4, 100.0, 0.0]], dtype)
    targets = np.array([[1, 0, 1, 0, 0, 1]])
    loss, dlogits = fastbn.sigmoid_cross_entropy(logits, targets)
    expected, gradient = ref.sigmoid_cross_entropy(logits, targets)
    assert loss == pytest.approx(expected, rel=1e-7)
    assert_close(dlogits, gradient)
    flat = logits.ravel().copy()
    sigmoid(flat)
    assert_close(flat, [1, 0, 1, 0, 1, 0.5], tolerance=1e-7)


def test_small_losses_keep_their_digits():
    loss, _ = fastbn.sigmoid_cross_entropy(np.array([[30.0]], np.float32), np.ones((1, 1)))
    assert loss == pytest.approx(np.exp(-30.0), rel=1e-6)


@pytest.mark.parametrize("name", ["sigmoid_cross_entropy", "squared_error"])
def test_targets_are_left_alone_and_nan_is_not_hidden(rng, name):
    outputs, _ = make(rng, "CN", (3, 4), np.float32)
    targets = np.ones((3, 4), np.float32)
    outputs[1, 2] = np.nan
    loss, gradient = LOSSES[name][0](outputs, targets, layout="CN")
    assert np.isnan(loss)
    assert np.isnan(gradient).sum() == np.isnan(gradient[1, 2]) == 1
    assert (targets == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((2, 2))), "targets: expected the shape of logits"),
        ((np.ones((2, 3)), np.full((2, 3), 1.5)), "targets: expected numbers from 0 to 1"),
        ((np.ones((2, 3)), np.full((2, 3), np.nan)), "targets: expected numbers from 0 to 1"),
        ((np.ones((0, 3)), np.ones((0, 3))), "logits: expected at least one sample"),
        ((np.ones((2, 3), int), np.ones((2, 3))), "logits: expected a float32 or float64 array"),
        ((np.ones((2, 3)), np.full((2, 3), "a")), "targets: expected numbers, got dtype"),
    ],
)
def test_mistakes_with_targets(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fastbn.sigmoid_cross_entropy(*arguments)


def test_count_agreeing(rng):
    logits = rng.integers(-1, 2, (3, 200)).astype(np.float32)
    targets = rng.integers(0, 2, (3, 200)).astype(np.float32)
    expected = ((logits > 0) == (targets > 0.5)).all(axis=0).sum()
    work = np.empty((1, 200), np.float32)
    assert count_agreeing_cn(logits, targets, 0, 200, work) == expected > 0
    logits[:] = np.nan
    assert count_agreeing_cn(logits, np.zeros_like(targets), 0, 200, work) == 0


@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits_do_not_overflow(layout, dtype):
    logits = np.array([[1e4, -1e4, 0.0], [-3e38, 3e38, 0.0], [88.0, 89.0, 90.0]], dtype)
    labels = np.array([0, 1, 2])
    logits = logits if layout == "NC" else np.ascontiguousarray(logits.T)
    loss, dlogits = fastbn.softmax_cross_entropy(logits, labels, layout=layout)
    expected, gradient = ref.softmax_cross_entropy(logits, labels, layout)
    assert np.isfinite(dlogits).all()
    assert abs(loss - expected) < 1e-6
    assert_close(dlogits, gradient)


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_a_masked_class_has_no_probability(layout):
    """A logit of -inf rules out a class; the loss of the other classes stays finite."""
    logits = np.array([[0.0, -np.inf, 0.0]], np.float32)
    logits = logits if layout == "NC" else np.ascontiguousarray(logits.T)
    loss, dlogits = fastbn.softmax_cross_entropy(logits, np.array([0]), layout=layout)
    assert loss == pytest.approx(np.log(2), rel=1e-6)
    assert_close(dlogits.ravel(), [-0.5, 0.0, 0.5])


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_nan_is_not_hidden(rng, layout):
    logits, labels = make(rng, layout, (4, 4), np.float32)
    logits[1, 1] = np.nan
    loss, dlogits = fastbn.softmax_cross_entropy(logits, labels, layout=layout)
    assert np.isnan(loss)
    rows = dlogits if layout == "NC" else dlogits.T
    assert np.isnan(rows[1]).all()
    assert np.isfinite(rows[[0, 2, 3]]).all()


@pytest.mark.parametrize("label_dtype", [np.int8, np.uint8, np.int32, np.uint64, np.dtype(">i4")])
def test_any_integer_labels(rng, label_dtype):
    logits, labels = make(rng, "NC", (9, 4), np.float64)
    expected = fastbn.softmax_cross_entropy(logits, labels)[0]
    assert fastbn.softmax_cross_entropy(logits, labels.astype(label_dtype))[0] == expected


@pytest.mark.parametrize("label", [2**40, 4, -1, -(2**40)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_do_not_follow_a_label_out_of_the_logits(rng, dtype, smoothing, label):
    """The loss is NaN, that sample's gradient is only softmax, and the others are unchanged."""
    rows = rng.standard_normal((5, 4)).astype(dtype)
    columns, weight = np.ascontiguousarray(rows.T), np.full(5, dtype(0.2))
    labels = np.array([0, 3, 1, 2, 0])
    known, by_row, by_column = np.empty_like(rows), np.empty_like(rows), np.empty_like(columns)
    assert np.isfinite(softmax_cross_entropy_nc(rows, labels, weight, smoothing, known))
    labels[2] = label
    assert np.isnan(softmax_cross_entropy_nc(rows, labels, weight, smoothing, by_row))
    work = np.empty((3, 5), dtype)
    loss = softmax_cross_entropy_cn(columns, labels, weight, smoothing, 0, 5, work, by_column)
    assert np.isnan(loss)
    known[2, 1] += dtype(0.2) * dtype(1 - smoothing)
    for gradient in (by_row, by_column.T):
        assert_close(gradient, known)
    correct = count_correct_cn(columns, rows.argmax(axis=1), 0, 5, work)
    assert correct == 5
    labels = rows.argmax(axis=1)
    labels[2] = label
    assert count_correct_cn(columns, labels, 0, 5, work) == 4


def test_count_correct_decides_as_argmax(rng):
    logits = rng.integers(0, 3, (5, 200)).astype(np.float32)  # many ties
    labels = rng.integers(0, 5, 200)
    expected = ref.count_correct(logits, labels, "CN")
    assert 0 < expected < 200
    assert count_correct_cn(logits, labels, 0, 200, np.empty((2, 200), np.float32)) == expected
    logits[:] = np.nan
    assert count_correct_cn(logits, labels, 0, 200, np.empty((2, 200), np.float32)) == 0


def test_softmax(rng):
    logits = (10 * rng.standard_normal((11, 6))).astype(np.float32)
    expected = ref.softmax(logits)
    plain = np.exp(logits.astype(np.float64))
    assert_close(expected, plain / plain.sum(axis=1, keepdims=True))
    softmax_nc(logits)
    assert_close(logits, expected)


@pytest.mark.skipif(JIT_DISABLED, reason="of the compiled function")
@pytest.mark.parametrize("dtype", DTYPES)
def test_exponentials(dtype):
    """They are right to two units in the last place, 0 instead of denormals, and keep NaN."""
    import numba

    from fastbn.jit.intrinsics import exp_of_nonpositive

    @numba.njit
    def exponentials(x):
        return np.array([exp_of_nonpositive(value) for value in x])

    lowest = np.log(np.finfo(dtype).tiny)
    x = np.concatenate([np.linspace(lowest, 0, 100_001), -np.geomspace(1e-30, 80, 10_001)])
    x = x[x >= lowest * 0.999999].astype(dtype)
    expected = np.exp(x.astype(np.longdouble))
    error = np.abs(exponentials(x) - expected) / expected
    assert error.max() <= 2 * np.finfo(dtype).eps
    odd = np.array([0.0, -0.0, -np.inf, lowest * 1.01, lowest * 1000, np.nan], dtype)
    assert np.array_equal(exponentials(odd), [1, 1, 0, 0, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize("layout", ["NC", "CN"])
def test_smoothed_losses_of_huge_logits_are_finite(layout):
    """The sum of ten logits minus their maximum is beyond float32."""
    z = np.full((3, 10), -1e38, np.float32)
    z[:, 4] = 1e38
    logits, labels = z if layout == "NC" else z.T.copy(), np.array([4, 0, 9])
    loss, _ = fastbn.softmax_cross_entropy(logits, labels, layout=layout, label_smoothing=0.1)
    expected, _ = ref.softmax_cross_entropy(logits, labels, layout, label_smoothing=0.1)
    assert_close(np.array([loss]), [expected], tolerance=2e-6, scale=expected)
