"""Scaling of inputs and targets by float64 statistics of the training data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, TypeVar

import numpy as np

from fastbn.checks import flag
from fastbn.functional.preprocessing import fit_standard, fit_standard_of
from fastbn.kernels.preprocessing import round_to
from fastbn.model.buffers import copy_numbers
from fastbn.model.measures import (
    inverses,
    minimum_and_range,
    moments,
    refuse_nonfinite,
    rows_at_once,
)

FLOAT64 = np.dtype(np.float64)

Self = TypeVar("Self", bound="Scaling")


def fitted(name: str, value: Any, mode: str | None) -> bool:
    """Check the flag of whether a scaling is fitted, which without a mode must be True."""
    if not flag(name, value) and mode is None:
        raise ValueError(f"{name}: expected True without a normalization, got False")
    return bool(value)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """``(x - center) * scale`` per column; the identity without a mode."""

    mode: str | None
    center: np.ndarray  # (columns,) float64
    scale: np.ndarray  # (columns,) float64
    is_fitted: bool
    dtype: np.dtype  # the dtype of the model and of scaled data

    ARGUMENT: ClassVar[str]  # the argument of the model that requests it

    @classmethod
    def unfitted(cls: type[Self], mode: str | None, columns: int, dtype: np.dtype) -> Self:
        """Return a scaling that is not fitted; its arrays are views, which cannot be resized."""
        return cls(mode, np.zeros(columns)[:], np.ones(columns)[:], mode is None, dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the fields; earlier versions kept center and scale in the model's dtype."""
        before = {"dtype": state["center"].dtype}
        wide = {name: state[name].astype(FLOAT64, copy=False) for name in ("center", "scale")}
        vars(self).update(before | state | wide)

    def require_fitted(self) -> None:
        """Raise ValueError if the scaling is not fitted."""
        if not self.is_fitted:
            raise ValueError(f"{self.ARGUMENT}={self.mode!r} is not fitted: train the model first")

    def adopt(self: Self, name: str, other: Self) -> Self:
        """Return the scaling to train with; `other` is the scaling of the samples.

        If this scaling is fitted, it is returned, and an error is raised if `other` has different
        numbers.
        """
        if not self.is_fitted:
            return self.taking(name, other)
        for part in ("center", "scale"):
            if not np.array_equal(getattr(other, part), getattr(self, part)):
                raise ValueError(
                    f"{name}.{part}: expected the model's scaling, got a different one; prepare "
                    "the samples again"
                )
        return self

    def taking(self: Self, name: str, other: Self) -> Self:
        """Return this scaling with copies of the numbers of `other`, which has the same mode."""
        if not isinstance(other, type(self)):
            raise TypeError(f"{name}: expected {type(self).__name__}, got {other!r:.80}")
        if other.mode != self.mode:
            raise ValueError(f"{name}.mode: expected {self.mode!r}, got {other.mode!r}")
        result = self.copied(fitted(f"{name}.is_fitted", other.is_fitted, self.mode))
        for part in ("center", "scale"):
            copy_numbers(f"{name}.{part}", getattr(result, part), getattr(other, part))
        return result

    def copied(self: Self, is_fitted: bool) -> Self:
        """Return a copy with its own memory, which cannot be resized."""
        center, scale = self.center.copy()[:], self.scale.copy()[:]
        return dataclasses.replace(self, center=center, scale=scale, is_fitted=bool(is_fitted))

    def scaled(self, name: str, x: np.ndarray, check_finite: bool) -> np.ndarray:
        """Return x (N, C) scaled in float64 and rounded once, to the model's dtype.

        Raises ValueError if a number overflows; the message names the first such row.
        """
        result = np.empty(x.shape, self.dtype)
        size = rows_at_once(x)
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            for start in range(0, len(x), size):
                part = slice(start, start + size)
                block = np.subtract(x[part], self.center, dtype=FLOAT64, order="C")
                np.multiply(block, self.scale, out=block)
                result[part] = block
        if check_finite:
            asked = f"{self.ARGUMENT}={self.mode!r}"
            expected = f"numbers that fit {self.dtype} after scaling ({asked})"
            refuse_nonfinite(name, result, self.dtype, expected)
        return result


@functools.lru_cache(4)
def identity(size: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return center and scale that change nothing, always the same arrays. Do not write them."""
    return np.zeros(size, dtype), np.ones(size, dtype)


@dataclasses.dataclass(frozen=True)
class InputScaling(Scaling):
    """The scaling of the features to z-scores, or to the range from 0 to 1.

    The kernels scale uint8 data and data of the model's dtype while they gather a minibatch. Other
    data are scaled here in float64 and then rounded to the model's dtype; rounding them first would
    lose the digits of a feature far from zero. All data are scaled here if center or scale cannot
    be represented exactly in the model's dtype.
    """

    ARGUMENT = "input_normalization"

    def is_wide(self, x: np.ndarray) -> bool:
        """Return whether data with the dtype of x are scaled in float64."""
        if self.mode is None or self.dtype == FLOAT64:
            return False
        return x.dtype.newbyteorder("=") not in (self.dtype, np.uint8)

    def in_dtype(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return center and scale in the model's dtype; None if that would round them."""
        if self.mode is None:
            return self.center.astype(self.dtype), self.scale.astype(self.dtype)
        center, scale = np.empty((2, self.center.size), self.dtype)
        is_exact = round_to(self.center, center) and round_to(self.scale, scale)
        return (center, scale) if is_exact else None

    def apply(
        self, name: str, x: np.ndarray, check_finite: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features, center and scale for the kernels: 0 and 1 if they are scaled here."""
        if self.mode is None:
            return x, *identity(x.shape[1], self.dtype)
        for_kernels = None if self.is_wide(x) else self.in_dtype()
        if for_kernels is not None:
            return x, *for_kernels
        return self.scaled(name, x, check_finite), *identity(x.shape[1], self.dtype)

    def fit(
        self, x: np.ndarray, weight: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> InputScaling:
        """Return the scaling fitted to x (samples, features), or itself if it is fitted.

        With `weight` (samples,) mean and deviation are weighted. With `rows`, only these are used.
        """
        if self.is_fitted or self.mode is None:
            return self
        dtype = FLOAT64 if self.is_wide(x) else self.dtype
        center, span = self._measured(x, weight, rows)
        if np.isnan(span).any():
            feature = int(np.isnan(span).argmax())
            raise ValueError(f"X: expected finite numbers to scale, got NaN in feature {feature}")
        largest = 1.0 / np.finfo(dtype).tiny
        if (span > largest).any():
            feature = int((span > largest).argmax())
            raise ValueError(
                f"X: expected ranges and deviations of at most {largest:.2g} to scale, "
                f"got {span[feature]:.2g} in feature {feature}"
            )
        scale = inverses(center, span, len(x) if rows is None else len(rows), dtype)
        wide = center.astype(FLOAT64), scale.astype(FLOAT64)
        return InputScaling(self.mode, *wide, True, self.dtype)

    def _measured(
        self, x: np.ndarray, weight: np.ndarray | None, rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return minimum and range, or mean and deviation."""
        if self.mode == "minmax":
            return minimum_and_range(x, rows)
        if self.is_wide(x):
            return moments(x, weight, rows, rows_at_once(x))
        if weight is not None or rows is not None:
            mean, deviation = moments(x, weight, rows)
            return mean.astype(self.dtype), deviation.astype(self.dtype)
        if x.dtype != self.dtype:
            return fit_standard_of(x, self.dtype)
        mean, deviation = fit_standard(x)
        if x.dtype == FLOAT64:  # squares may leave the range of float64
            least = np.sqrt(np.finfo(FLOAT64).tiny)
            is_usual = np.isfinite(mean) & (deviation >= least) & (deviation < np.inf)
            odd = np.flatnonzero(~is_usual & (x.min(axis=0) != x.max(axis=0)))
            if odd.size:
                mean[odd], deviation[odd] = moments(x[:, odd], None, None)
        return mean, deviation


@dataclasses.dataclass(frozen=True)
class TargetScaling(Scaling):
    """The normalization of the targets to z-scores, and its inverse."""

    ARGUMENT = "target_normalization"

    def fit(
        self, targets: np.ndarray, weight: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> TargetScaling:
        """Return the scaling fitted to targets (samples, outputs), as `InputScaling.fit`."""
        if self.is_fitted or self.mode is None:
            return self
        center, span = moments(targets, weight, rows, rows_at_once(targets))
        is_odd = ~(span <= 1.0 / np.finfo(FLOAT64).tiny)
        if is_odd.any():
            output = int(is_odd.argmax())
            raise ValueError(
                "y: expected targets with a deviation that fits float64, "
                f"got {span[output]:.2g} in output {output}"
            )
        scale = inverses(center, span, len(targets) if rows is None else len(rows), FLOAT64)
        return TargetScaling(self.mode, center, scale, True, self.dtype)

    def apply(self, name: str, targets: np.ndarray) -> np.ndarray:
        """Return the targets that the network is trained on."""
        return targets if self.mode is None else self.scaled(name, targets, True)

    def undo(self, outputs: np.ndarray) -> np.ndarray:
        """Return the network's outputs in the units of the targets: float64."""
        return outputs / self.scale + self.center

    def predictions(self, outputs: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
        """Return `undo(outputs)` in `dtype`; raises ValueError if a prediction overflows."""
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
