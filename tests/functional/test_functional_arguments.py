"""Arguments of the NumPy API: accepted, refused, and left unchanged."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn

X = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 2, 0])
VECTOR = np.ones(3, np.float32)


def backward(**changes):
    arguments = {
        "dy": X, "x": X, "gamma": VECTOR, "beta": VECTOR, "mean": VECTOR, "rstd": VECTOR
    } | changes  # fmt: skip
    return fastbn.batch_norm_backward(**arguments)


def adam(**changes):
    arguments = {name: np.ones(4) for name in ("param", "grad", "m", "v")} | {"step": 1} | changes
    return fastbn.adam_step(**arguments)


def running(**changes):
    arguments = {name: np.ones(3) for name in ("running_mean", "running_var", "mean", "var")}
    return fastbn.update_running_statistics(**(arguments | {"n": 4} | changes))


def softmax(logits=X, labels=LABELS, **options):
    return fastbn.softmax_cross_entropy(logits, labels, **options)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# a call, its error, and what the message must name
REFUSED = [
    (lambda: fastbn.batch_norm(X.astype(int)), TypeError, "x: expected a float32 or float64"),
    (lambda: fastbn.batch_norm(X.astype(np.float16)), TypeError, "x: .*float16"),
    (lambda: fastbn.batch_norm(X.astype(complex)), TypeError, "x: .*complex"),
    (lambda: fastbn.batch_norm(X.astype(object)), TypeError, "x: .*object"),
    (lambda: fastbn.batch_norm([["a", "b"]]), TypeError, "x: "),
    (lambda: fastbn.batch_norm(X[0]), ValueError, r"x: expected shape \(N, C\).*got \(3,\)"),
    (lambda: fastbn.batch_norm(X[None], layout="CN"), ValueError, r"x: expected shape \(C, N\)"),
    (lambda: fastbn.batch_norm(np.float32(1)), ValueError, "x: "),
    (lambda: fastbn.batch_norm(X[:1]), ValueError, "x: expected more than 1 value per feature"),
    (lambda: fastbn.batch_norm(X[:, :1], layout="CN"), ValueError, "x: expected more than 1"),
    (lambda: fastbn.batch_norm(X[:0]), ValueError, "x: "),
    (lambda: fastbn.batch_norm(X[:, :0]), ValueError, "x: expected at least one feature"),
    (lambda: fastbn.batch_statistics(X[:0]), ValueError, "x: expected at least one sample"),
    (lambda: fastbn.batch_norm(X, layout="NHWC"), ValueError, "layout: .*'NC', 'CN'.*'NHWC'"),
    (lambda: fastbn.batch_norm(X, layout=["NC"]), ValueError, "layout: "),
    (lambda: fastbn.batch_norm(X, VECTOR[:2]), ValueError, r"gamma: expected shape \(3,\), got"),
    (lambda: fastbn.batch_norm(X, VECTOR, X), ValueError, "beta: "),
    (lambda: fastbn.batch_norm(X, [1, 2, 3]), TypeError, "gamma: "),
    (lambda: fastbn.batch_norm(X, eps=-1.0), ValueError, "eps: "),
    (lambda: fastbn.batch_norm(X, eps=np.nan), ValueError, "eps: "),
    (lambda: fastbn.batch_norm(X, eps="1e-5"), TypeError, "eps: "),
    (lambda: fastbn.batch_norm(X, eps=True), TypeError, "eps: "),
    (lambda: fastbn.batch_norm(X, activation="gelu"), ValueError, "activation: .*gelu"),
    (lambda: fastbn.batch_norm(X, negative_slope=np.inf), ValueError, "negative_slope: "),
    (lambda: fastbn.batch_norm(X, out=np.empty((4, 3))), ValueError, "out: .*float32.*float64"),
    (lambda: fastbn.batch_norm(X, out=np.empty((3, 4), "f4")), ValueError, "out: "),
    (lambda: fastbn.batch_norm(X, out=read_only(X)), ValueError, "out: .*read-only"),
    (lambda: fastbn.batch_norm(X, out=[1, 2]), ValueError, "out: .*list"),
    (lambda: backward(dy=X[:2]), ValueError, r"dy: expected the shape of x, \(4, 3\), got"),
    (lambda: backward(dy=X.astype(int)), TypeError, "dy: "),
    (lambda: backward(x=X[0]), ValueError, "x: "),
    (lambda: backward(mean=None), TypeError, "mean: "),
    (lambda: backward(rstd=VECTOR[:1]), ValueError, "rstd: "),
    (lambda: backward(gradient="approximate"), ValueError, "gradient: "),
    (lambda: fastbn.batch_norm_inference(X, VECTOR[:2], VECTOR), ValueError, "running_mean: "),
    (lambda: fastbn.batch_norm_inference(X, VECTOR, -VECTOR), ValueError, "running_var: "),
    (lambda: fastbn.fold_batch_norm(VECTOR, *[VECTOR] * 4), ValueError, "W: "),
    (lambda: fastbn.fold_batch_norm(X, *[VECTOR] * 4), ValueError, "gamma: "),
    (lambda: softmax(labels=LABELS[:3]), ValueError, "labels: expected shape"),
    (lambda: softmax(labels=LABELS * 1.0), TypeError, "labels: .*integer"),
    (lambda: softmax(labels=LABELS + 1), ValueError, "labels: .*from 0 to 2"),
    (lambda: softmax(labels=LABELS - 1), ValueError, "labels: .*-1"),
    (lambda: softmax(labels=LABELS > 0), TypeError, "labels: "),
    (lambda: softmax(X[:0], LABELS[:0]), ValueError, "logits: "),
    (lambda: softmax(sample_weight=VECTOR), ValueError, "sample_weight: expected shape"),
    (lambda: softmax(sample_weight=np.zeros(4)), ValueError, "sample_weight: .*above 0"),
    (lambda: softmax(sample_weight=-np.ones(4)), ValueError, "sample_weight: "),
    (lambda: softmax(label_smoothing=1.5), ValueError, r"label_smoothing: .*\[0, 1\]"),
    (lambda: adam(step=0), ValueError, "step: "),
    (lambda: adam(step=1.0), TypeError, "step: "),
    (lambda: adam(lr=-1), ValueError, "lr: "),
    (lambda: adam(betas=(1.0, 0.9)), ValueError, r"betas\[0\]: .*\[0, 1\)"),
    (lambda: adam(betas=0.9), TypeError, "betas: expected a pair"),
    (lambda: adam(grad=np.ones(5)), ValueError, "grad: expected the shape of param"),
    (lambda: adam(grad=np.ones(4, "f4")), TypeError, "grad: expected dtype float64"),
    (lambda: adam(m=[0.0] * 4), TypeError, "m: expected a NumPy array"),
    (lambda: adam(v=read_only(np.ones(4))), ValueError, "v: .*read-only"),
    (lambda: adam(param=np.ones(4, ">f8")), TypeError, "param: .*byte order"),
    (lambda: adam(param=np.ones(4, int)), TypeError, "param: "),
    (lambda: adam(max_norm=0.0), ValueError, "max_norm: "),
    (lambda: adam(decoupled=1), TypeError, "decoupled: "),
    (lambda: fastbn.sgd_step(*np.ones((3, 4)), momentum=1.0), ValueError, "momentum: "),
    (lambda: fastbn.rmsprop_step(*np.ones((3, 4)), alpha=-0.1), ValueError, "alpha: "),
    (lambda: fastbn.min_max_scale(X, feature_range=(1, 0)), ValueError, "feature_range: "),
    (lambda: fastbn.min_max_scale(X, minimum=VECTOR), ValueError, "maximum: "),
    (lambda: fastbn.min_max_scale(X[None]), ValueError, r"x: expected shape \(N, C\)"),
    (lambda: fastbn.standardize(X[:0]), ValueError, "x: expected at least one sample"),
    (lambda: fastbn.standardize(X, std=VECTOR), ValueError, "mean: "),
    (lambda: fastbn.standardize(X, mean=VECTOR, std=X), ValueError, "std: "),
    (lambda: running(running_mean=[0.0] * 3), TypeError, "running_mean"),
    (lambda: running(running_var=np.ones(4)), ValueError, "running_var"),
    (lambda: running(running_var=np.ones(3, "f4")), ValueError, "running_var"),
    (lambda: running(running_mean=read_only(np.ones(3))), ValueError, "running_mean"),
    (lambda: running(running_mean=np.ones(3, ">f8")), ValueError, "running_mean"),
    (lambda: running(running_mean=np.ones(3, int)), TypeError, "running_mean"),
    (lambda: running(mean=np.ones(2)), ValueError, "mean"),
    (lambda: running(var=-np.ones(3)), ValueError, "var"),
    (lambda: running(n=0), ValueError, "n:"),
    (lambda: running(momentum=1.5), ValueError, "momentum"),
    (lambda: running(momentum=None), ValueError, "num_batches_tracked"),
    (lambda: running(unbiased="yes"), TypeError, "unbiased"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_refused(case):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("changes", [{"lr": -1.0}, {"v": np.ones(5)}, {"step": 0}])
def test_a_refused_step_changes_nothing(changes):
    arrays = {name: np.ones(4) for name in ("param", "grad", "m")}
    arguments = {"v": np.ones(4), "step": 1} | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        fastbn.adam_step(**arrays, **arguments)
    assert all(np.array_equal(a, np.ones(4)) for a in arrays.values())


@pytest.mark.parametrize("first", ["param", "grad", "m", "v"])
@pytest.mark.parametrize("second", ["param", "grad", "m", "v"])
def test_states_that_share_memory_are_refused(first, second):
    if first == second:
        return
    memory = np.ones(5)
    with pytest.raises(ValueError, match="memory of its own"):
        adam(**{first: memory[:4], second: memory[1:]})


def test_one_array_for_two_states_is_refused():
    memory = np.ones(4)
    with pytest.raises(ValueError, match="v: expected memory of its own, got that of m"):
        adam(m=memory, v=memory)


def test_a_state_may_be_a_file_mapped_to_memory(tmp_path):
    param = np.memmap(tmp_path / "param", np.float32, "w+", shape=(5,))
    grad, m, v = np.ones(5, np.float32), *np.zeros((2, 5), np.float32)
    fastbn.adam_step(param, grad, m, v, step=1, lr=0.5)
    np.testing.assert_allclose(param, -0.5, rtol=1e-6)


def test_running_statistics_that_share_memory_are_refused():
    memory = np.ones(3)
    with pytest.raises(ValueError, match="running_var: expected memory of its own"):
        fastbn.update_running_statistics(memory, memory, np.ones(3), np.ones(3), 4)


def test_results_whose_elements_overlap_are_refused():
    overlapping = np.lib.stride_tricks.as_strided(np.ones(4), (3, 2), (8, 8))
    x, message = np.ones((3, 2)), "expected no overlapping elements, got some"
    with pytest.raises(ValueError, match=f"out: {message}"):
        fastbn.batch_norm(x, out=overlapping)
    with pytest.raises(ValueError, match=f"m: {message}"):
        fastbn.adam_step(np.ones((3, 2)), x, overlapping, np.zeros((3, 2)), step=1)
    vector = np.lib.stride_tricks.as_strided(np.ones(1), (3,), (0,))
    with pytest.raises(ValueError, match=f"running_var: {message}"):
        fastbn.update_running_statistics(np.zeros(3), vector, np.ones(3), np.ones(3), 4)
    assert (overlapping == 1).all()
    assert (vector == 1).all()


@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("name", ["forward", "backward", "inference"])
def test_out_takes_the_result(rng, layout, name):
    x = rng.standard_normal((6, 5))
    y, mean, rstd = fastbn.batch_norm(x, layout=layout)
    zeros, ones = np.zeros_like(mean), np.ones_like(mean)
    call = {
        "forward": lambda x, **out: fastbn.batch_norm(x, **out)[0],
        "backward": lambda x, **out: fastbn.batch_norm_backward(
            y, x, None, None, mean, rstd, **out
        )[0],
        "inference": lambda x, **out: fastbn.batch_norm_inference(x, zeros, ones, **out),
    }[name]
    expected = call(x, layout=layout)
    if name == "inference":
        assert np.allclose(expected, x / np.sqrt(1 + 1e-5))

    def places():
        """Return new memory, a strided view, one that overlaps half of the input, and the input."""
        yield x.copy(), np.empty_like(x)
        yield x.copy(), np.empty((12, 10))[::2, ::2]
        memory = np.zeros((9, 5))
        memory[:6] = x
        yield memory[:6], memory[3:]
        yield (same := x.copy()), same

    for source, out in places():
        assert call(source, layout=layout, out=out) is out
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("layout", ["NC", "CN"])
@pytest.mark.parametrize("shape", [(6, 5), (2048, 2100)])
def test_arrays_that_begin_at_an_odd_byte(rng, layout, shape):
    def moved(array):
        memory = np.empty(array.nbytes + 1, np.uint8)
        there = memory[1:].view(array.dtype).reshape(array.shape)
        there[...] = array
        assert not there.flags.aligned
        return there

    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    y, mean, rstd = fastbn.batch_norm(x, layout=layout)
    out = moved(np.zeros_like(x))
    assert fastbn.batch_norm(moved(x), layout=layout, out=out)[0] is out
    assert np.array_equal(out, y)
    dx, *_ = fastbn.batch_norm_backward(dy, x, None, None, mean, rstd, layout=layout)
    arguments = moved(dy), moved(x), None, None, moved(mean), moved(rstd)
    assert fastbn.batch_norm_backward(*arguments, layout=layout, out=out)[0] is out
    assert np.array_equal(out, dx)


def test_states_that_begin_at_an_odd_byte():
    memory = np.zeros((4, 5 * 4 + 1), np.uint8)
    param, grad, m, v = (row[1:].view(np.float32) for row in memory)
    grad[:] = 1
    fastbn.adam_step(param, grad, m, v, step=1, lr=0.5)
    assert np.allclose(param, -0.5)
    assert np.allclose(m, 0.1)


def test_a_state_whose_mask_would_be_ignored_is_refused():
    param, grad, m, v = np.ones((4, 3))
    masked = np.ma.MaskedArray(param, mask=[True, False, False])
    with pytest.raises(TypeError, match="param: expected a NumPy array to update, got MaskedArray"):
        fastbn.adam_step(masked, grad, m, v, step=1)
    assert (masked.data == 1).all()
