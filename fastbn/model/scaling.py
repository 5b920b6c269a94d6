"""Scaling of columns by what training data measured, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

from fastbn.checks import flag
from fastbn.model.buffers import copy_numbers

# Rows that are looked at at once, where an array of all would be as large as the data.
ROWS = 4096

# Numbers that are converted to float64 at once.
NUMBERS = 2**16

# Exponents of the power of two that distances are divided by: both ways it stays finite.
LARGEST_EXPONENT = 1000

# Roundings by which the numbers of a constant column may differ, such as sums that are 1.
ROUNDINGS = 64

Self = TypeVar("Self", bound="Scaling")


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


def fitted(name: str, value: Any, mode: str | None) -> bool:
    """Return `value` as a bool, which says whether a scaling has seen data; without mode it has."""
    if not flag(name, value) and mode is None:
        raise ValueError(f"{name}: expected True without a normalization, got False")
    return bool(value)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """``(x - center) * scale`` per column; the identity where nothing is to be scaled."""

    mode: str | None  # None is the identity
    center: np.ndarray  # (columns,) float64
    scale: np.ndarray  # (columns,) float64
    is_fitted: bool
    dtype: np.dtype  # of the model, and of what is scaled

    @classmethod
    def unfitted(cls: type[Self], mode: str | None, columns: int, dtype: np.dtype) -> Self:
        """Return the scaling before any data; without a mode there is nothing to fit.

        Its arrays are views, whose memory `resize` cannot take away.
        """
        return cls(mode, np.zeros(columns)[:], np.ones(columns)[:], mode is None, dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the fields; earlier versions kept center and scale in the model's dtype."""
        before = {"dtype": state["center"].dtype}
        wide = {name: state[name].astype(np.float64, copy=False) for name in ("center", "scale")}
        vars(self).update(before | state | wide)

    def adopt(self: Self, name: str, other: Self) -> Self:
        """Return the scaling that training goes by from now on; a fitted one is left as it is."""
        return self if self.is_fitted else self.taking(name, other)

    def taking(self: Self, name: str, other: Self) -> Self:
        """Return this scaling with copies of another's numbers; refuse one of another kind."""
        if not isinstance(other, type(self)):
            raise TypeError(f"{name}: expected {type(self).__name__}, got {other!r:.80}")
        if other.mode != self.mode:
            raise ValueError(f"{name}.mode: expected {self.mode!r}, got {other.mode!r}")
        result = self.copied(fitted(f"{name}.is_fitted", other.is_fitted, self.mode))
        for part in ("center", "scale"):
            copy_numbers(f"{name}.{part}", getattr(result, part), getattr(other, part))
        return result

    def copied(self: Self, is_fitted: bool) -> Self:
        """Return a copy with memory of its own, which `resize` cannot take away."""
        center, scale = self.center.copy()[:], self.scale.copy()[:]
        return dataclasses.replace(self, center=center, scale=scale, is_fitted=is_fitted)

    def scaled(self, name: str, argument: str, x: np.ndarray, check_finite: bool) -> np.ndarray:
        """Return x (N, C) scaled in float64 and then rounded once, to the model's dtype.

        ValueError with the first row that the dtype does not hold then; `argument` is what asks for
        the scaling.
        """
        result = np.empty(x.shape, self.dtype)
        size = rows_at_once(x)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                block = np.subtract(x[part], self.center, dtype=np.float64, order="C")
                np.multiply(block, self.scale, out=block)
                result[part] = block
        if check_finite:
            expected = f"numbers that {self.dtype} holds when they are scaled ({argument})"
            refuse_nonfinite(name, result, self.dtype, expected)
        return result
