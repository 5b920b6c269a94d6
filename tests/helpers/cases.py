"""One table of shapes and tolerances for all tests of kernels."""

from __future__ import annotations

import itertools
import math
import os
import threading

import numpy as np

# Without the compiler, loops run as Python, so the tests use only small shapes.
JIT_DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")

DTYPES = [np.float32, np.float64]

# Largest error, relative to the largest magnitude of the expected array (see `assert_close`).
# Measured over the cases below: 1.0e-6 in float32 and 1.6e-14 in float64, where the oracle's own
# sums over 65,537 samples have about this error.
TOLERANCE = {"float32": 2e-6, "float64": 5e-14}

# Largest errors of this run, by kind; pytest prints them at its end.
WORST: dict[str, float] = {}

# (N, C): the smallest, primes, one more and one less than a block (1024 samples feature-major, a
# chunk of 65536 / C rows sample-major), blocks of features and half a block, wide and tall.
SMALL = [(2, 1), (3, 1), (2, 7), (7, 2), (31, 13), (64, 16), (5, 96)]
LARGE = [
    (511, 64),
    (512, 64),
    (513, 64),
    (683, 96),
    (1023, 3),
    (1024, 3),
    (1025, 3),
    (1031, 31),
    (17, 1025),
    (4097, 5),
    (15, 2048),
    (17, 2048),
    (2, 33000),
    (65537, 4),
]
MATRICES = SMALL if JIT_DISABLED else SMALL + LARGE

# (N, C, *spatial)
SPATIAL = [(2, 3, 1), (1, 3, 2), (5, 4, 7), (3, 2, 5, 3)]
if not JIT_DISABLED:
    SPATIAL += [(13, 7, 31, 33), (2, 3, 1025), (3, 2, 4, 5, 6)]

ALL_SHAPES = [("NC", s) for s in MATRICES + SPATIAL] + [("CN", s[::-1]) for s in MATRICES]


def shapes_with(*options):
    """Yield shapes with options: small ones with all combinations, each large one with the next."""
    combinations = list(itertools.product(*options))
    in_turn = itertools.cycle(combinations)
    return [
        (layout, shape, *combination)
        for layout, shape in ALL_SHAPES
        for combination in (combinations if math.prod(shape) <= 1024 else [next(in_turn)])
    ]


def assert_close(actual, expected, *, tolerance=None, scale=None):
    """Assert an error of at most `tolerance * scale`; the default is the largest expected number.

    The error of a sum is proportional to the magnitudes of its terms, not to the result, so for
    sums `scale` is the sum of magnitudes.
    """
    actual = np.asarray(actual)
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    if actual.size == 0:
        return
    usual = tolerance is None
    if usual:
        tolerance = TOLERANCE[actual.dtype.name]
    scale = max(float(np.max(np.abs(expected))), 1.0) if scale is None else np.maximum(scale, 1e-30)
    error = np.max(np.abs(actual - expected) / scale)
    if usual:
        note_error(f"kernels, {actual.dtype}", error)
    assert error <= tolerance, f"error {error:.3g} above {tolerance:.3g}"


def note_error(of, error):
    """Remember the largest error of a kind, for the summary."""
    WORST[of] = max(WORST.get(of, 0.0), float(error))


def feature_axis(layout):
    """Return the axis of features."""
    return 1 if layout == "NC" else 0


def features(shape, layout):
    """Return the number of features."""
    return shape[feature_axis(layout)]


def over_samples(x, layout, function):
    """Reduce x over all axes but that of the features."""
    axis = feature_axis(layout)
    return function(x, axis=tuple(i for i in range(x.ndim) if i != axis))


def held_by_another_thread(model):
    """Let another thread hold the model as if it trained it; return what releases it."""
    has_it, done = threading.Event(), threading.Event()

    def hold():
        has_it.set()
        done.wait()

    thread = threading.Thread(target=model._engine.alone, args=(hold,))
    thread.start()
    has_it.wait()

    def release():
        done.set()
        thread.join()

    return release
