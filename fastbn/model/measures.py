"""What data measures column by column, in float64: mean and deviation, minimum and range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Rows that are looked at at once, where an array of all would be as large as the data.
ROWS = 4096

# Numbers that are converted to float64 at once.
NUMBERS = 2**16

# Exponents of the power of two that distances are divided by: both ways it stays finite.
LARGEST_EXPONENT = 1000

# Roundings by which the numbers of a constant column may differ, such as sums that are 1.
ROUNDINGS = 64


def refuse_nonfinite(name: str, x: np.ndarray, dtype: np.dtype, expected: str) -> None:
    """Raise ValueError with the first row of x (N, C) that has others than finite `dtype`s."""
    if x.dtype.kind != "f":
        return
    is_same = x.dtype == dtype
    size = ROWS if is_same else rows_at_once(x)  # as much as a cache holds
    for start in range(0, len(x), size):
        block = x[start : start + size]
        if not is_same:
            with np.errstate(over="ignore"):
                block = block.astype(dtype)
        finite = np.isfinite(block)
        if not finite.all():
            row = start + int(np.flatnonzero(~finite.all(axis=1))[0])
            raise ValueError(f"{name}: expected {expected}, got others in row {row}")


def rows_at_once(x: np.ndarray) -> int:
    """Return how many rows of x (N, C) have about NUMBERS numbers."""
    return max(1, NUMBERS // max(1, x.shape[1]))


def blocks(x: np.ndarray, rows: np.ndarray | None, size: int = ROWS) -> Iterator[np.ndarray]:
    """Yield x (N, C), or some rows of it, `size` rows at a time."""
    n = len(x) if rows is None else len(rows)
    for start in range(0, n, size):
        part = slice(start, start + size)
        yield x[part] if rows is None else x[rows[part]]


def float64_blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x (N, C) as contiguous float64, some rows at a time."""
    for block in blocks(x, None, rows_at_once(x)):
        with np.errstate(over="ignore"):  # a long double may be beyond float64
            yield np.ascontiguousarray(block, np.float64)


def moments(
    x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None, size: int = ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each column of x, or some rows of it, in float64.

    All is measured from the first row, so that a constant column has the deviation 0, and in units
    of a power of two near the largest distance from it, so that no square overflows. Sums are those
    of blocks of `size` rows, without a BLAS, whose bits may depend on its threads.
    """
    origin = x[0 if rows is None else rows[0]].astype(np.float64)
    n = len(x) if rows is None else len(rows)
    share: np.ndarray | None = None
    if weight is not None:
        weight = weight if rows is None else weight[rows]
        share = np.asarray(weight, np.float64) / weight.sum(dtype=np.float64)

    def distances() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for block in blocks(x, rows, size):
            stop = start + len(block)
            part = np.full(len(block), 1.0 / n) if share is None else share[start:stop]
            yield part, np.subtract(block, origin, dtype=np.float64, order="C")
            start = stop

    largest, mean, var = np.zeros((3, x.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):  # what no float64 holds is refused later
        for _, distance in distances():
            np.maximum(largest, np.abs(distance, out=distance).max(axis=0), out=largest)
        exponent = np.clip(np.frexp(largest)[1], -LARGEST_EXPONENT, LARGEST_EXPONENT)
        unit, per_unit = np.ldexp(1.0, exponent), np.ldexp(1.0, -exponent)
        for part, distance in distances():
            distance *= per_unit
            mean += np.einsum("i,ij->j", part, distance)
        for part, distance in distances():
            distance *= per_unit
            distance -= mean
            var += np.einsum("i,ij->j", part, np.square(distance, out=distance))
        deviation = np.where(np.isinf(largest), np.inf, np.sqrt(var) * unit)
        return origin + mean * unit, deviation


def minimum_and_range(x: np.ndarray, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return minimum and range of each column of x, or some rows of it, in float64."""
    extremes = [(b.min(axis=0), b.max(axis=0)) for b in blocks(x, rows, rows_at_once(x))]
    with np.errstate(over="ignore"):  # what no float64 holds is refused later
        low, high = (np.asarray(part, np.float64) for part in zip(*extremes, strict=True))
        least = low.min(axis=0)
        return least, high.max(axis=0) - least


def is_constant(center: np.ndarray, span: np.ndarray, n: int) -> np.ndarray:
    """Tell of each column of n numbers whether its range or deviation is that of rounding.

    The numbers are float64, as most are that are computed: .3 and .1 * 3 are the same constant.
    """
    limit = min(n, ROUNDINGS) * np.finfo(np.float64).eps
    constant: np.ndarray = span <= limit * np.abs(center)
    return constant


def inverses(center: np.ndarray, span: np.ndarray, n: int) -> np.ndarray:
    """1 / span, and 1 where the column of n numbers is constant, or 1 / span infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        scale = 1.0 / span
    return np.where(np.isinf(scale) | is_constant(center, span, n), 1.0, scale)
