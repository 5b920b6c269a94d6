"""Data near the limits of a dtype, and the comparison with the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import reference as ref

Array = np.ndarray
Generator = np.random.Generator

# The tolerances of tests/helpers/cases.py, measured on numbers of ordinary size. Here they are
# relative to the largest magnitude of a feature, not of the whole array.
TOLERANCE = {"float32": 2e-6, "float64": 5e-14}

# A variance is a sum of positive numbers. If they have few distinct values, each partial sum is
# rounded in the same direction: after 128 of them the error is at most 128 / 2 * eps / 2.
VARIANCE = {"float32": 2e-6 + 32 * 2.0**-23, "float64": 5e-14}

# A few times the smallest positive number: results near it have few digits.
DENORMAL = 1e-44


def tolerance(x: Array) -> float:
    """Return the relative tolerance of an array's dtype."""
    return TOLERANCE[x.dtype.name]


def near(what: str, got: Any, expected: Any, error: Any) -> None:
    """Check that a result differs from the oracle's by at most `error`, and is not NaN."""
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
    """Draw features (n, c), each of a random kind."""
    kinds = [COLUMNS[rng.choice(names or list(COLUMNS))] for _ in range(c)]
    return np.stack([kind(rng, n) for kind in kinds], axis=1).astype(dtype)


def draw_any(rng: Generator) -> tuple[Array, str]:
    """Draw a matrix (N, C) of random kind and size, and a layout."""
    n = int(rng.choice([2, 3, 5, 7, 64, 513, 5000, 70_000]))
    c = int(rng.choice([1, 1, 3, 32, 67])) if n < 10_000 else 3
    dtype = np.float32 if rng.random() < 0.8 else np.float64
    return draw(rng, n, c, dtype), str(rng.choice(["NC", "CN"]))


def turned(x: Array, layout: str) -> Array:
    """Convert x from (N, C) to a layout, or from that layout to (N, C)."""
    return x if layout == "NC" else np.ascontiguousarray(x.T)


def exact_statistics(x: Array) -> tuple[Array, Array]:
    """Return the oracle's mean and variance of each column, with its first sample as the origin."""
    origin = x[0].astype(np.float64)
    mean, var = ref.batch_statistics(turned(x - origin, "CN"), "CN")  # NumPy adds rows pairwise
    return mean + origin, var
