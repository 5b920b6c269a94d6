"""Scaling of inputs and targets by what training data measured, in float64."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

import numpy as np

from fastbn.checks import flag
from fastbn.functional.preprocessing import (
    fit_min_max,
    fit_standard,
    fit_standard_of,
    min_max_scales,
    standard_scales,
)
from fastbn.model.buffers import copy_numbers
from fastbn.model.measures import (
    blocks,
    inverses,
    is_constant,
    minimum_and_range,
    moments,
    refuse_nonfinite,
    rows_at_once,
)

Self = TypeVar("Self", bound="Scaling")


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

    ARGUMENT: ClassVar[str]  # of the model, which asks for it

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

    def require_fitted(self) -> None:
        """Refuse to predict with a scaling that has seen no data."""
        if not self.is_fitted:
            raise ValueError(f"{self.asked} has seen no data yet: train first")

    @property
    def asked(self) -> str:
        """The argument of the model that asks for the scaling, as errors show it."""
        return f"{self.ARGUMENT}={self.mode!r}"

    def adopt(self: Self, name: str, other: Self) -> Self:
        """Return the scaling that training goes by from now on, which samples come with.

        A fitted one stays, and refuses samples that were scaled by other numbers.
        """
        if not self.is_fitted:
            return self.taking(name, other)
        for part in ("center", "scale"):
            if not np.array_equal(getattr(other, part), getattr(self, part)):
                raise ValueError(
                    f"{name}.{part}: expected that of the model, got another: samples have to be "
                    "made by the model as it is scaled now"
                )
        return self

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

    def scaled(self, name: str, x: np.ndarray, check_finite: bool) -> np.ndarray:
        """Return x (N, C) scaled in float64 and then rounded once, to the model's dtype.

        ValueError with the first row that the dtype does not hold then.
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
            expected = f"numbers that {self.dtype} holds when they are scaled ({self.asked})"
            refuse_nonfinite(name, result, self.dtype, expected)
        return result


@dataclasses.dataclass(frozen=True)
class InputScaling(Scaling):
    """The scaling of the features by z-scores, or to the range from 0 to 1.

    Data of the model's dtype, and bytes, are scaled by the kernels as they gather a minibatch.
    Other data are scaled in float64 before they are rounded to the model's dtype, which would lose
    the digits of a feature far from zero. So are all data where the dtype does not hold exactly
    what was measured in float64.
    """

    ARGUMENT = "input_normalization"

    def is_wide(self, x: np.ndarray) -> bool:
        """Tell whether x is of a dtype that is scaled in float64."""
        if self.mode is None or self.dtype == np.float64 or x.dtype in (self.dtype, np.uint8):
            return False
        return x.dtype.newbyteorder("=") != self.dtype

    def in_dtype(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Center and scale in the model's dtype; None where it does not hold them exactly."""
        if self.mode is None or self.dtype == np.float64:
            return self.center.astype(self.dtype), self.scale.astype(self.dtype)
        with np.errstate(over="ignore", under="ignore"):
            center, scale = self.center.astype(self.dtype), self.scale.astype(self.dtype)
        is_exact = np.array_equal(center, self.center) and np.array_equal(scale, self.scale)
        return (center, scale) if is_exact else None

    def apply(
        self, name: str, x: np.ndarray, check_finite: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features, center and scale for the kernels: these are 0 and 1 of scaled ones."""
        measured = None if self.is_wide(x) else self.in_dtype()
        if measured is not None:
            return x, *measured
        identity = np.zeros(x.shape[1], self.dtype), np.ones(x.shape[1], self.dtype)
        return self.scaled(name, x, check_finite), *identity

    def fit(
        self, x: np.ndarray, weight: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> InputScaling:
        """Return the scaling measured on x (samples, features); a fitted one is left as it is.

        With `weight` (samples,) means and deviations are weighted; `rows`, if not None, are those
        that count.
        """
        if self.is_fitted or self.mode is None:
            return self
        n = len(x) if rows is None else len(rows)
        if self.is_wide(x):
            if self.mode == "minmax":
                center, span = minimum_and_range(x, rows)
            else:
                center, span = moments(x, weight, rows, rows_at_once(x))
            scale = inverses(center, span, n)
        else:
            center, span, scale = self._measured_by_kernels(x, weight, rows)
            if self.dtype == np.float64:
                scale[is_constant(center, span, n)] = 1.0
        _check_range(span)
        wide = center.astype(np.float64), scale.astype(np.float64)
        return InputScaling(self.mode, *wide, True, self.dtype)

    def _measured_by_kernels(
        self, x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Center, range or deviation, and scale in the model's dtype."""
        dtype = self.dtype
        if self.mode == "minmax":
            center, maximum = _minimum_and_maximum(x, rows, dtype)
            with np.errstate(over="ignore"):
                return center, maximum - center, min_max_scales(center, maximum, 0.0, 1.0)
        if weight is None and rows is None:
            center, span = fit_standard(x) if x.dtype == dtype else fit_standard_of(x, dtype)
            if x.dtype == np.float64:
                _measure_extremes(x, center, span)
        else:
            center, span = (part.astype(dtype) for part in moments(x, weight, rows))
        return center, span, standard_scales(span)


def _measure_extremes(x: np.ndarray, center: np.ndarray, span: np.ndarray) -> None:
    """Correct mean and deviation of columns whose squares are beyond float64, or close to 0."""
    is_usual = np.isfinite(center) & (span >= np.sqrt(np.finfo(np.float64).tiny)) & (span < np.inf)
    if is_usual.all():
        return
    low, high = fit_min_max(x)
    odd = np.flatnonzero(~is_usual & (low != high))  # others are constant, as the kernel says
    if odd.size:
        center[odd], span[odd] = moments(x[:, odd], None, None)


def _minimum_and_maximum(
    x: np.ndarray, rows: np.ndarray | None, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest number of each column of x, or of some rows of it."""
    if rows is None and x.dtype == dtype:
        return fit_min_max(x)
    extremes = [(block.min(axis=0), block.max(axis=0)) for block in blocks(x, rows)]
    low = np.min([pair[0] for pair in extremes], axis=0)
    return low.astype(dtype), np.max([pair[1] for pair in extremes], axis=0).astype(dtype)


def _check_range(span: np.ndarray) -> None:
    """Refuse features that are divided by more than their dtype has an inverse of."""
    if np.isnan(span).any():
        feature = int(np.flatnonzero(np.isnan(span))[0])
        raise ValueError(f"X: expected finite numbers to scale, got NaN in feature {feature}")
    largest = 1.0 / np.finfo(span.dtype).tiny
    odd = np.flatnonzero(span > largest)
    if odd.size:
        raise ValueError(
            f"X: expected ranges and deviations of at most {largest:.2g} to scale, "
            f"got {span[odd[0]]:.2g} in feature {odd[0]}"
        )


@dataclasses.dataclass(frozen=True)
class TargetScaling(Scaling):
    """The normalization of the targets to z-scores, and the way back."""

    ARGUMENT = "target_normalization"

    def fit(
        self, targets: np.ndarray, weight: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> TargetScaling:
        """Return the scaling measured on targets (samples, outputs); a fitted one is left as it is.

        With `weight` (samples,) means and deviations are weighted; `rows`, if not None, are those
        that count.
        """
        if self.is_fitted or self.mode is None:
            return self
        n = len(targets) if rows is None else len(rows)
        center, span = moments(targets, weight, rows, rows_at_once(targets))
        odd = np.flatnonzero(~(span <= 1.0 / np.finfo(np.float64).tiny))
        if odd.size:
            raise ValueError(
                f"y: expected targets whose deviation float64 holds, got {span[odd[0]]:.2g} in "
                f"output {odd[0]}"
            )
        return TargetScaling(self.mode, center, inverses(center, span, n), True, self.dtype)

    def apply(self, name: str, targets: np.ndarray) -> np.ndarray:
        """Return the targets that the network learns."""
        if self.mode is None:
            return targets
        return self.scaled(name, targets, True)

    def undo(self, outputs: np.ndarray) -> np.ndarray:
        """Return the network's outputs in the targets' units: float64."""
        return outputs / self.scale + self.center

    def predictions(self, outputs: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
        """Return `undo`'s result in the dtype of `name`; ValueError where that does not hold it."""
        wide = self.undo(outputs)
        with np.errstate(over="ignore"):
            result = wide.astype(dtype)
        beyond = np.isinf(result) & np.isfinite(outputs)
        if beyond.any():
            raise ValueError(
                f"{name}: expected a dtype that holds the predictions, got {dtype} and a "
                f"prediction of {wide[beyond][0]:.2g}"
            )
        return result
