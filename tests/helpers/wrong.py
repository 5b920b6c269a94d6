"""Wrong arguments that hypothesis draws, and the check that an error names them.

A kind of wrong value is a strategy for functions that turn a good value into a wrong one.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import math
import os
import pathlib
import pickle
import re
import warnings

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fastbn.errors import MissingExtraError

examples = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # examples of each kind of wrong value


# -- kinds of wrong values -------------------------------------------------------------------------


def value(strategy):
    """Return a kind: a drawn value that does not depend on the good one."""
    return strategy.map(lambda drawn: lambda good: drawn)


def changed(function, *strategies):
    """Return a kind: the good value, changed by a function of drawn arguments."""
    return st.tuples(*strategies).map(lambda drawn: lambda good: function(good, *drawn))


def of(*values):
    """Return kinds of one value each."""
    return {f"{one!r:.40}": value(st.just(one)) for one in values}


def without(kinds, *names):
    assert set(names) <= set(kinds)
    return {name: kind for name, kind in kinds.items() if name not in names}


def with_one(good, bad, place):
    """Return the array with one number replaced."""
    array = np.array(good, np.result_type(good, np.float32))
    array.flat[place % array.size] = bad
    return array


def read_only(good):
    array = good.copy()
    array.flags.writeable = False
    return array


def masked(good, place):
    mask = np.arange(np.size(good)) == place % np.size(good)
    return np.ma.MaskedArray(good, mask.reshape(np.shape(good)))


def repeated(good):
    """Return a writeable array of that shape whose rows all share memory."""
    row = good[:1].copy()
    return np.lib.stride_tricks.as_strided(row, good.shape, (0, *row.strides[1:]))


class Unreadable:
    """An object that NumPy cannot convert to an array."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array")


class Endless:
    """An endless sequence of sizes."""

    def __iter__(self):
        return itertools.count(4)


def as_dtype(*dtypes):
    return changed(lambda good, dtype: np.asarray(good).astype(dtype), st.sampled_from(dtypes))


PLACE = st.integers(0, 3)
INTEGERS = ("i1", "i4", "i8", "u2", "u8")
LARGE = st.integers(10**309, 10**310) | st.integers(-(10**310), -(10**309))
TEXT = st.text(max_size=8)

NUMBER = {
    "text": value(TEXT),
    "None": value(st.none()),
    "a list": value(st.lists(st.floats(0.1, 0.9), max_size=2)),
    "complex": value(st.complex_numbers()),
    "a boolean": value(st.booleans()),
    "an array": value(st.sampled_from([np.array(0.1), np.array([0.1]), np.zeros((2, 2))])),
    "nan": value(st.just(math.nan)),
    "infinite": value(st.sampled_from([math.inf, -math.inf])),
    "beyond float64": value(LARGE),
}
POSITIVE = NUMBER | {"negative": value(st.floats(-1e30, -1e-30))}
SHARE = POSITIVE | {"above 1": value(st.floats(1.001, 1e30))}
BELOW_1 = SHARE | of(1.0)
COUNT = {
    "text": value(TEXT),
    "a list": value(st.lists(st.integers(1, 3), max_size=2)),
    "a float": value(st.floats(0.1, 1e9)),
    "a boolean": value(st.booleans()),
    "nan": value(st.just(math.nan)),
    "an array": value(st.just(np.array([1]))),
    "below 1": value(st.integers(-(10**12), 0)),
}
FLAG = {
    "a number": value(st.integers(-2, 2) | st.floats(0, 1)),
    "text": value(TEXT),
    "None": value(st.none()),
    "an array": value(st.just(np.array([True, False]))),
}
NAME = {
    "text": value(st.just("") | TEXT.map("{}?".format)),  # hypothesis knows words of the sources
    "a number": value(st.integers()),
    "a list": value(st.lists(st.sampled_from(["NC", "relu"]), min_size=1, max_size=2)),
    "bytes": value(st.sampled_from([b"NC", b"relu", b""])),
    "an array": value(st.just(np.zeros(2))),
}
SEED = {
    "negative": value(st.integers(-(2**40), -1)),
    "a fraction": value(st.floats(0.1, 9.9)),
    "text": value(TEXT),
    "None": value(st.none()),
    "a boolean": value(st.booleans()),
}
SHARES = st.floats(0.0, 0.99)
PAIR = {
    "a number": value(SHARES),
    "one": value(st.tuples(SHARES)),
    "three": value(st.tuples(SHARES, SHARES, SHARES)),
    "words": value(st.tuples(TEXT, TEXT)),
    "None": value(st.none()),
    "nan": value(st.permutations([0.9, math.nan]).map(tuple)),
}
BETAS = PAIR | {
    "1 and more": value(st.tuples(SHARES, st.floats(1, 9)) | st.tuples(st.floats(1, 9), SHARES)),
    "negative": value(st.tuples(st.floats(-9, -0.01), SHARES)),
}
NORM = {
    "0 and less": value(st.floats(-1e9, 0)),
    "text": value(TEXT),
    "a boolean": value(st.booleans()),
    "nan": value(st.just(math.nan)),
}
LAYER_SIZES = of(
    None, 4, "43", b"43", {4, 3}, {4: 3}, (), (4,), (4, 0), (4, -3), (4.0, 3), (4, 1), (4, "3"),
    (True, 3), (4, None), ((4, 3),), (2**40, 3), (10**30, 3), (2**24, 2**24), np.zeros((2, 2)),
    np.array(4),
) | {"without end": value(st.builds(Endless))}  # fmt: skip
PATH = {
    "a number": value(st.integers()),
    "None": value(st.none()),
    "a list": value(st.lists(TEXT, max_size=1)),
    "bytes": value(st.binary(max_size=3)),
    "with a NUL": value(st.just("a\0b")),
}

# Arrays, of any shape, that do not contain numbers.
NO_NUMBERS = {
    "strings": as_dtype("U", "S"),
    "objects": as_dtype(object),
    "complex": as_dtype("c8", "c16"),
    "dates": changed(
        lambda a, dtype: np.asarray(a).astype(np.int64).astype(dtype),
        st.sampled_from(["M8[s]", "m8[D]"]),
    ),
    "records": changed(lambda a: np.zeros(np.shape(a), "f4,f4")),
    "ragged": value(st.just([[1.0], [1.0, 2.0]])),
    "a dict": value(st.just({"a": 1.0})),
    "a function": value(st.just(len)),
    "unreadable": value(st.builds(Unreadable)),
    "masked": changed(masked, PLACE),
}
NO_FLOATS = NO_NUMBERS | {
    "None": value(st.none()),
    "integers": as_dtype(*INTEGERS),
    "booleans": as_dtype(bool),
    "half": as_dtype(np.float16),
}
BATCH = {
    "one dimension": changed(lambda a, i: a[i % len(a)], PLACE),
    "a number": changed(lambda a: a[0, 0]),
    "no features": changed(lambda a: a[:, :0]),
    "no samples": changed(lambda a: a[:0]),
}
ONE_SAMPLE = {"one sample": changed(lambda a: a[:1])}
CUT = {"too short": changed(lambda a, by: a[:-by], st.integers(1, 2))}
VECTOR = CUT | {
    "too long": changed(lambda a: np.concatenate([a, a])),
    "a column": changed(lambda a: a[:, None]),
    "a number": changed(lambda a: a[0]),
    "integers": NO_FLOATS["integers"],
    "too large": changed(lambda a, v: np.full(a.shape, v), st.floats(1e39, 1e300)),
    **{name: NO_NUMBERS[name] for name in ("strings", "ragged", "masked")},
}
NONE = of(None)
NEGATIVE = {"negative": changed(lambda a, v, i: with_one(a, v, i), st.floats(-9, -0.01), PLACE)}
MEMORY = {
    "read-only": changed(read_only),
    "too small": changed(lambda a: a[:-1].copy()),
    "of another dtype": changed(lambda a: a.astype(np.float64)),
    "of another byte order": changed(lambda a: a.astype(a.dtype.newbyteorder("S"))),
    "a list": changed(lambda a: a.tolist()),
    "over itself": changed(repeated),
    "masked": NO_NUMBERS["masked"],
}
OUT = MEMORY | {"transposed": changed(lambda a: np.zeros(a.shape[::-1], a.dtype))}
STATE = MEMORY | NONE | {"integers": NO_FLOATS["integers"]}
LABELS = CUT | {
    "floats": as_dtype("f4", "f8"),
    "nan": changed(lambda a, i: with_one(a, math.nan, i), PLACE),
    "booleans": changed(lambda a: a > 0),
    **{name: NO_NUMBERS[name] for name in ("strings", "objects", "dates", "ragged", "masked")},
    "None": NO_FLOATS["None"],
    "negative": changed(lambda a, by: a - by, st.integers(1, 9)),
    "beyond the classes": changed(lambda a, by: a + by, st.integers(1, 9)),
    "huge": changed(lambda a: np.full(a.shape, 2**64 - 1, np.uint64)),
    "a column": VECTOR["a column"],
    "a number": VECTOR["a number"],
}
NOT_FINITE = {
    "nan": changed(lambda a, i: with_one(a, math.nan, i), PLACE),
    "infinite": changed(with_one, st.sampled_from([math.inf, -math.inf]), PLACE),
}
NO_WEIGHTS = (
    CUT | NEGATIVE | NOT_FINITE | {"zeros": changed(np.zeros_like), "a column": VECTOR["a column"]}
)
WEIGHT = NO_WEIGHTS | {
    "a number": value(st.floats(0.1, 2)),
    "booleans": NO_FLOATS["booleans"],
    **{name: NO_NUMBERS[name] for name in ("strings", "objects", "ragged", "masked")},
}
TARGETS = {
    "of another shape": changed(lambda a: a[:-1]),
    "one dimension": BATCH["one dimension"],
    "None": NO_FLOATS["None"],
    **{
        name: NO_NUMBERS[name]
        for name in ("strings", "objects", "complex", "ragged", "masked", "unreadable")
    },
}


# -- the check -------------------------------------------------------------------------------------


def named(*names):
    """Return kinds of paths: files with these names, in the folder of the good one."""
    return {name: changed(lambda good, name: good.parent / name, st.just(name)) for name in names}


def assert_refused(data, call, good, argument, kinds, *, says=None, peer=None, folder=None):
    """Call with wrong values of every kind; each has to be refused, and nothing may have changed.

    `good` returns valid arguments. The message has to start with the name of the argument, or match
    the pattern `says`; it may name a path instead. If there is a `peer`, the error has to be the
    peer's. No file of the folder may change.
    """
    before_files = files(folder) if folder else None
    for what, kind in kinds.items():
        spoil = data.draw(kind, label=f"{argument}, {what}")
        arguments = good()
        arguments[argument] = bad = spoil(arguments.get(argument))
        before = fingerprint(arguments)
        error = error_of(call, arguments)
        case = f"{argument}, {what}: {bad!r:.200}"
        assert error is not None, f"{case} was taken"
        if peer is None:
            is_file = isinstance(bad, pathlib.PurePath)
            allowed = (ValueError, TypeError, MissingExtraError) + (OSError,) * is_file
            assert isinstance(error, allowed), f"{case}: {error!r}"
            pattern = rf"{re.escape(argument)}\b" if says is None else says
            is_named = re.match(pattern, str(error)) or (is_file and str(bad) in str(error))
            assert is_named, f"{case} is not named in {error!r}"
        else:
            others = good()
            others[argument] = spoil(others.get(argument))
            expected = error_of(peer, others)
            assert repr(error) == repr(expected), f"{case}: {error!r}, and not {expected!r}"
        assert fingerprint(arguments) == before, f"{case}: changed an argument"
        assert folder is None or files(folder) == before_files, f"{case}: changed a file"


def parameters(call):
    """Return the names of a function's or class's parameters, except self."""
    return [name for name in inspect.signature(call).parameters if name != "self"]


def error_of(call, arguments):
    """Return the exception or warning of a call."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # old libraries warn each other
        try:
            call(**arguments)
        except Exception as error:
            return error
    return None


def fingerprint(value):
    """Return something that stays equal as long as no bit of a value changes."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        mask = np.ma.getmaskarray(value).tobytes() if np.ma.isMaskedArray(value) else b""
        return value.dtype.str, value.shape, value.strides, str(value.flags), value.tobytes(), mask
    if hasattr(value, "get_params"):  # an estimator, whose attributes may be in any order
        value = vars(value)
    if isinstance(value, dict):
        return {key: fingerprint(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(part) for part in value]
    if isinstance(value, type):
        return value
    if hasattr(value, "state_dict"):  # a module or an optimizer of PyTorch
        modules = [(type(part), part.training) for part in getattr(value, "modules", list)()]
        return modules, fingerprint(value.state_dict())
    if hasattr(value, "detach"):
        return fingerprint(value.detach().numpy())
    try:
        return pickle.dumps(value)
    except Exception:  # functions made here
        return repr(value)


def files(folder):
    """Return the metadata of all files in a folder: every write changes them."""
    found = {}
    for entry in os.scandir(folder):
        what = entry.stat()
        found[entry.path] = what.st_ino, what.st_size, what.st_mtime_ns, what.st_ctime_ns
        if entry.is_dir():
            found |= files(entry.path)
    return found
