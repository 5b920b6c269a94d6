"""What may be wrong with an argument, by what it should be: named changes of a good value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Bad = dict[str, Callable[[Any], Any]]


def of(*values: Any) -> Bad:
    """Values that are wrong whatever the good one is."""
    return {f"{value!r:.40}": lambda good, value=value: value for value in values}


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a copy that cannot be written."""
    array = array.copy()
    array.flags.writeable = False
    return array


def repeated(array: np.ndarray) -> np.ndarray:
    """Return a writeable array of that shape whose rows are all in the same memory."""
    row = array[:1].copy()
    strides = (0, *row.strides[1:])
    return np.lib.stride_tricks.as_strided(row, array.shape, strides)


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what sets one number of an array."""

    def change(array: np.ndarray) -> np.ndarray:
        array = np.array(array, np.result_type(array, np.float32))
        array.flat[-1] = value
        return array

    return change


class Unreadable:
    """What NumPy makes no array of."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("no array")


NUMBER = of("1", None, [0.1], 0.1j, True, np.array(0.1), math.nan, math.inf, 10**400)
POSITIVE = NUMBER | of(-1.0)
SHARE = POSITIVE | of(1.5)
COUNT = of("1", [1], 1.5, True, math.nan, np.array([1]), 0, -1)
FLAG = of(1, "yes", None, np.array([True, False]))
NAME = of("nonsense", 3, ["NC"], b"NC", np.zeros(2))
PAIR = of(0.9, (0.9,), (0.9, 0.9, 0.9), ("a", "b"), None, (0.9, math.nan))
PATH = of(3, None, ["a"], b"a", "a\0b")

# Arrays that are none of numbers, whatever the shape.
NO_NUMBERS: Bad = {
    "strings": lambda a: np.asarray(a).astype(str),
    "objects": lambda a: np.asarray(a).astype(object),
    "complex": lambda a: np.asarray(a).astype(complex),
    "dates": lambda a: np.asarray(a).astype(np.int64).astype("M8[s]"),
    "records": lambda a: np.zeros(np.shape(a), "f4,f4"),
    "ragged": lambda a: [[1.0], [1.0, 2.0]],
    "a dict": lambda a: {"a": 1.0},
    "a function": lambda a: len,
    "unreadable": lambda a: Unreadable(),
    "masked": lambda a: np.ma.MaskedArray(a, np.arange(np.size(a)).reshape(np.shape(a)) == 1),
}
NO_FLOATS: Bad = NO_NUMBERS | {
    "None": lambda a: None,
    "integers": lambda a: np.asarray(a).astype(int),
    "booleans": lambda a: np.asarray(a) > 0,
    "half": lambda a: np.asarray(a).astype(np.float16),
}
BATCH: Bad = {
    "one dimension": lambda a: a[0],
    "a number": lambda a: a[0, 0],
    "no features": lambda a: a[:, :0],
    "no samples": lambda a: a[:0],
}
VECTOR: Bad = {
    "too short": lambda a: a[:-1],
    "too long": lambda a: np.concatenate([a, a]),
    "a column": lambda a: a[:, None],
    "a number": lambda a: a[0],
    "strings": NO_NUMBERS["strings"],
    "ragged": NO_NUMBERS["ragged"],
    "integers": NO_FLOATS["integers"],
    "masked": NO_NUMBERS["masked"],
    "too large": lambda a: np.full(a.shape, 1e300),
}
OUT: Bad = {
    "read-only": read_only,
    "transposed": lambda a: np.zeros(a.shape[::-1], a.dtype),
    "too small": lambda a: a[:-1].copy(),
    "of another dtype": lambda a: np.zeros(a.shape, np.float64),
    "of another byte order": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "a list": lambda a: a.tolist(),
    "over itself": repeated,
    "masked": NO_NUMBERS["masked"],
}
STATE: Bad = {
    "read-only": read_only,
    "too small": lambda a: a[:-1].copy(),
    "integers": NO_FLOATS["integers"],
    "of another dtype": lambda a: a.astype(np.float64),
    "of another byte order": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "a list": lambda a: a.tolist(),
    "None": NO_FLOATS["None"],
    "over itself": repeated,
    "masked": NO_NUMBERS["masked"],
}
LABELS: Bad = {
    "floats": lambda a: a.astype(float),
    "nan": lambda a: np.full(a.shape, np.nan),
    "booleans": lambda a: a > 0,
    "strings": NO_NUMBERS["strings"],
    "objects": NO_NUMBERS["objects"],
    "dates": NO_NUMBERS["dates"],
    "ragged": NO_NUMBERS["ragged"],
    "masked": NO_NUMBERS["masked"],
    "None": NO_FLOATS["None"],
    "negative": lambda a: a - 1,
    "beyond the classes": lambda a: a + 1,
    "huge": lambda a: np.full(a.shape, 2**64 - 1, np.uint64),
    "too few": lambda a: a[:-1],
    "a column": lambda a: a[:, None],
    "a number": lambda a: a[0],
}
WEIGHT: Bad = {
    "negative": lambda a: -a,
    "nan": with_one(math.nan),
    "infinite": with_one(math.inf),
    "zeros": np.zeros_like,
    "too few": lambda a: a[:-1],
    "a column": lambda a: a[:, None],
    "a number": lambda a: 1.0,
    "strings": NO_NUMBERS["strings"],
    "objects": NO_NUMBERS["objects"],
    "booleans": NO_FLOATS["booleans"],
    "ragged": NO_NUMBERS["ragged"],
    "masked": NO_NUMBERS["masked"],
}
TARGETS: Bad = {
    "of another shape": lambda a: a[:-1],
    "one dimension": lambda a: a[0],
    **{
        name: NO_NUMBERS[name]
        for name in ("strings", "objects", "complex", "ragged", "masked", "unreadable")
    },
    "None": NO_FLOATS["None"],
}
