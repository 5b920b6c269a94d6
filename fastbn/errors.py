"""Exceptions of fastbn; other wrong arguments raise ValueError or TypeError."""

from __future__ import annotations

from typing import Any


class DataFileError(ValueError):
    """A data file that is missing, truncated, mislabelled or malformed."""


class ModelFileError(ValueError):
    """A model file that is missing, truncated, or does not describe a model."""


class DivergenceError(ArithmeticError):
    """Training diverges: a step is refused, or the model is not finite after the last step.

    A step is refused if its loss, a variance or the gradient is not finite, or if an entry of the
    gradient is too large to be squared in the model's dtype. The model is as it was before that
    step or, if the fit has early stopping that keeps the best epoch, as it was after that epoch.
    The previous update may have caused this: an update that is finite, but far too large, is not
    undone.

    Attributes
    ----------
    step : int
        Number of the step, from 1, in the fit or in the call of `partial_fit` or `train_step`.
    layer : str
        Where the first non-finite values are: "inputs", a layer such as "layers.0", or "loss". If
        gradients are too large, the first layer with such a gradient.
    history : History
        History of the epochs before this step.
    is_refused : bool
        False if no step was refused, but a number of the model is not finite after `step`, the last
        one of the fit.
    is_restored : bool
        True if the model is as it was after the best epoch of early stopping.
    """

    def __init__(
        self, step: int, layer: str, history: Any, is_refused: bool = True,
        is_restored: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(step, layer, history, is_refused, is_restored)
        self.step, self.layer, self.history = step, layer, history
        self.is_refused, self.is_restored = is_refused, is_restored

    def __str__(self) -> str:
        if not self.is_refused:
            return (
                f"after step {self.step}, the last one, the model has non-finite values, first in "
                f"{self.layer}; try a smaller lr or set max_norm"
            )
        when = "after the best epoch" if self.is_restored else "before that step"
        return (
            f"in step {self.step} the loss or a variance is not finite, or the gradient is not "
            f"finite or too large, first in {self.layer}. The model is as it was {when}. The "
            "previous update may have caused this; try a smaller lr or set max_norm"
        )


class MissingExtraError(ImportError):
    """An optional dependency that the call needs is not installed."""


def missing_extra(what: str, package: str, extra: str) -> MissingExtraError:
    """Return the error for `what`, which needs `package` from the extra `extra`."""
    return MissingExtraError(
        f"{what} needs {package}, which is not installed: pip install 'fastbn[{extra}]'"
    )
