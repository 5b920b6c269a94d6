"""Calls whose arrays need no single checks: which these are, and that results do not differ."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn
from fastbn.functional._usual import are_usual_buffers, is_usual_batch

SHAPES = {"NC": (6, 4), "CN": (4, 6)}


class Subclass(np.ndarray):
    pass


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)[1:]
    result = memory.view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


UNUSUAL = {
    "None": lambda array: None,
    "list": lambda array: array.tolist(),
    "subclass": lambda array: array.view(Subclass),
    "masked": np.ma.masked_array,
    "another dtype": lambda array: array.astype(np.float64),
    "byte order": lambda array: array.astype(array.dtype.newbyteorder()),
    "read-only": read_only,
    "misaligned": misaligned,
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "another shape": lambda array: np.concatenate([array, array]),
    "another rank": lambda array: array[None],
}


def batch(rng, layout, dtype=np.float32):
    """Return x, dy, out and four vectors (C,)."""
    arrays = [rng.standard_normal(SHAPES[layout]).astype(dtype) for _ in range(3)]
    return arrays, [rng.standard_normal(4).astype(dtype) for _ in range(4)]


def usual(layout, arrays, vectors, least=2):
    return is_usual_batch(layout, tuple(arrays[:2]), arrays[2], tuple(vectors), least)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", SHAPES)
def test_plain_arrays_are_usual(rng, layout, dtype):
    arrays, vectors = batch(rng, layout, dtype)
    assert usual(layout, arrays, vectors)
    assert usual(layout, [*arrays[:2], None], vectors)
    assert usual(layout, [*arrays[:2], arrays[0]], vectors)  # in place
    images = np.zeros((2, 4, 3, 3), dtype)
    assert usual(layout, [images] * 3, vectors) == (layout == "NC")


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("layout", SHAPES)
def test_one_other_array_is_not_usual(rng, layout, kind, position):
    arrays, vectors = batch(rng, layout)
    everything = arrays + vectors
    everything[position] = UNUSUAL[kind](everything[position])
    is_left_out = kind == "None" and position == 2  # `out`
    assert usual(layout, everything[:3], everything[3:]) == is_left_out


@pytest.mark.parametrize("layout", ["nc", None, 0, [], np.array(["NC", "CN"])])
def test_another_layout_is_not_usual(rng, layout):
    assert not usual(layout, *batch(rng, "NC"))


@pytest.mark.parametrize("dtype", [np.float16, np.int64, ">f4"])
def test_another_dtype_of_all_is_not_usual(rng, dtype):
    assert not usual("NC", *batch(rng, "NC", dtype))
    assert not are_usual_buffers(tuple(np.zeros(5, dtype) for _ in range(4)))


def test_too_few_values_are_not_usual(rng):
    vectors = [np.ones(4, np.float32)] * 4
    one = [np.ones((1, 4), np.float32)] * 3
    assert usual("NC", one, vectors, least=1)
    assert not usual("NC", one, vectors, least=2)
    assert not usual("NC", [np.ones((0, 4), np.float32)] * 3, vectors, least=1)
    assert not usual("NC", [np.ones((4, 0), np.float32)] * 3, [np.ones(0, np.float32)] * 4)


def test_views_are_usual_unless_out_overlaps_another_array(rng):
    memory = rng.standard_normal((4, 6, 4)).astype(np.float32)
    x, dy, out, rest = memory
    vectors = list(rest[:4])
    assert usual("NC", [x, dy, out], vectors)
    assert usual("NC", [x, dy, x], vectors)
    assert not usual("NC", [x, dy, out], [*vectors[:3], out[2]])
    assert usual("NC", [out, out, None], [*vectors[:3], out[2]])  # only `out` is written
    assert not usual("NC", [x, dy, memory.reshape(-1, 4)[3:9]], vectors)


def test_buffers_are_usual_if_each_has_its_own_memory():
    buffers = [np.zeros(5, np.float32) for _ in range(4)]
    assert are_usual_buffers(tuple(buffers))
    assert not are_usual_buffers((*buffers[:3], buffers[0]))
    memory = np.zeros((4, 5), np.float32)
    assert are_usual_buffers(tuple(memory))
    assert not are_usual_buffers((*memory[:3], memory[1]))
    assert not are_usual_buffers((*memory[:3], memory.ravel()[12:17]))


@pytest.mark.parametrize("layout", SHAPES)
def test_out_may_overlap_a_vector(rng, layout):
    (x, dy, out), (gamma, beta, _, _) = batch(rng, layout)
    options = {"layout": layout, "activation": "leaky_relu"}
    expected, mean, rstd = fastbn.batch_norm(x, gamma, beta, **options)
    gradients = fastbn.batch_norm_backward(dy, x, gamma, beta, mean, rstd, **options)
    inside = out.ravel()[8:12]
    inside[:] = gamma
    y, *_ = fastbn.batch_norm(x, inside, beta, out=out, **options)
    assert y is out
    assert np.array_equal(y, expected)
    inside[:] = rstd
    results = fastbn.batch_norm_backward(dy, x, gamma, beta, mean, inside, out=out, **options)
    assert results[0] is out
    for result, gradient in zip(results, gradients, strict=True):
        assert np.array_equal(result, gradient)


@pytest.mark.parametrize("layout", SHAPES)
def test_results_own_their_memory(rng, layout):
    (x, dy, _), vectors = batch(rng, layout)
    for array in fastbn.batch_norm(x, layout=layout):
        assert array.flags.owndata
    for array in fastbn.batch_norm_backward(dy, x, *vectors, layout=layout):
        assert array.flags.owndata
