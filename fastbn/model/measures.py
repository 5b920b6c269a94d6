"""Statistics of the columns of data in float64: mean and deviation, minimum and range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastbn.checks import FLOAT_DTYPES, is_plain
from fastbn.kernels.reductions import all_below

# Default number of rows that `moments` adds up at once.
ROWS = 4096

# Numbers that are converted or checked at once, so that they fit a cache.
BLOCK_NUMBERS = 2**16

INFINITY = {dtype: dtype.type(np.inf) for dtype in FLOAT_DTYPES}

# Largest exponent of the power of two that distances are divided by, so that its inverse is finite.
LARGEST_EXPONENT = 1000

# A column is constant if its numbers differ by at most this many rounding errors.
ROUNDINGS = 64


def rows_at_once(x: np.ndarray) -> int:
    """Return how many rows of x (N, C) have about BLOCK_NUMBERS numbers."""
    return max(1, BLOCK_NUMBERS // max(1, x.shape[1]))


def blocks(x: np.ndarray, rows: np.ndarray | None = None, size: int = 0) -> Iterator[np.ndarray]:
    """Yield x (N, C), or some of its rows, by `size` rows or about BLOCK_NUMBERS numbers."""
    size = size or rows_at_once(x)
    for start in range(0, len(x) if rows is None else len(rows), size):
        part = slice(start, start + size)
        yield x[part] if rows is None else x[rows[part]]


def float64_blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield x (N, C) as contiguous float64, block by block."""
    for block in blocks(x):
        with np.errstate(over="ignore"):  # a long double may be beyond float64
            yield np.ascontiguousarray(block, np.float64)


def refuse_nonfinite(name: str, x: np.ndarray, dtype: np.dtype, expected: str = "") -> None:
    """Raise ValueError if x (N, C) is not finite in `dtype`; the error names the first such row."""
    if x.dtype.kind != "f":
        return
    is_usual = x.dtype is dtype and is_plain(x)
    if is_usual and x.size <= BLOCK_NUMBERS and all_below(x.ravel(), INFINITY[dtype]):
        return
    size = rows_at_once(x)
    for start in range(0, len(x), size):
        block = x[start : start + size]
        if is_usual and all_below(block.ravel(), INFINITY[dtype]):
            continue
        if block.dtype != dtype:
            with np.errstate(over="ignore"):
                block = block.astype(dtype)
        finite = np.isfinite(block)
        if not finite.all():
            row = start + int(finite.all(axis=1).argmin())
            expected = expected or f"finite numbers of {dtype}"  # takes microseconds to write
            raise ValueError(f"{name}: expected {expected}, got others in row {row}")


def moments(
    x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None, size: int = ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each column of x, or of some of its rows, in float64.

    Distances are measured from the first row, so that the deviation of a constant column is 0. They
    are divided by a power of two near the largest distance, so that no square overflows. Sums are
    computed in blocks of `size` rows, and not by BLAS, whose bits may depend on its threads.
    """
    origin = x[0 if rows is None else rows[0]].astype(np.float64)
    n = len(x) if rows is None else len(rows)
    if weight is None:
        shares = np.full(n, 1.0 / n)
    else:
        weight = weight if rows is None else weight[rows]
        shares = np.asarray(weight, np.float64) / weight.sum(dtype=np.float64)

    def distances() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, block in enumerate(blocks(x, rows, size)):
            share = shares[index * size : (index + 1) * size]
            yield share, np.subtract(block, origin, dtype=np.float64, order="C")

    largest, mean, var = np.zeros((3, x.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):  # overflow of float64 is refused later
        for _, distance in distances():
            np.maximum(largest, np.abs(distance, out=distance).max(axis=0), out=largest)
        exponent = np.clip(np.frexp(largest)[1], -LARGEST_EXPONENT, LARGEST_EXPONENT)
        unit, per_unit = np.ldexp(1.0, exponent), np.ldexp(1.0, -exponent)
        for share, distance in distances():
            distance *= per_unit
            mean += np.einsum("i,ij->j", share, distance)
        for share, distance in distances():
            distance *= per_unit
            distance -= mean
            var += np.einsum("i,ij->j", share, np.square(distance, out=distance))
        deviation = np.where(np.isinf(largest), np.inf, np.sqrt(var) * unit)
        return origin + mean * unit, deviation


def minimum_and_range(x: np.ndarray, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return minimum and range of each column of x, or of some of its rows, in float64."""
    extremes = [(block.min(axis=0), block.max(axis=0)) for block in blocks(x, rows)]
    with np.errstate(over="ignore"):  # overflow of float64 is refused later
        low, high = (np.asarray(part, np.float64) for part in zip(*extremes, strict=True))
        least = low.min(axis=0)
        return least, high.max(axis=0) - least


def inverses(center: np.ndarray, span: np.ndarray, n: int, dtype: np.dtype) -> np.ndarray:
    """Return 1 / span in `dtype`, and 1 for constant columns and where 1 / span is infinite.

    A column of n numbers is constant if its range or deviation is not larger than the rounding
    errors of float64: .3 and .1 * 3 are the same constant.
    """
    is_constant = span <= min(n, ROUNDINGS) * np.finfo(np.float64).eps * np.abs(center)
    with np.errstate(divide="ignore", over="ignore"):
        scale = (1.0 / span).astype(dtype)
    return np.where(np.isinf(scale) | is_constant, dtype.type(1), scale)
