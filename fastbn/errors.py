"""The errors of fastbn's own; everything else it raises is a ValueError or a TypeError."""

from __future__ import annotations

from typing import Any


class DataFileError(ValueError):
    """A data file that is missing, truncated, mislabelled or malformed."""


class ModelFileError(ValueError):
    """A model file that is missing, truncated, or says something that no model can be."""


class DivergenceError(ArithmeticError):
    """The loss of a fit is no longer finite.

    The model is as it was before the step that made it so.

    Attributes
    ----------
    step : int
        Number of that step in the fit, from 1: the loss is not finite in it, or after its update.
    layer : str
        The first layer whose numbers were not, such as "layers.0"; or "loss".
    history : History
        Of the epochs before.
    """

    def __init__(self, step: int, layer: str, history: Any) -> None:
        super().__init__(step, layer, history)
        self.step, self.layer, self.history = step, layer, history

    def __str__(self) -> str:
        return (
            f"in step {self.step}, or after it, the loss is not finite: the numbers of "
            f"{self.layer} are the first that are not. The model is as it was before that step; "
            "a smaller lr or a max_norm may help"
        )


class MissingExtraError(ImportError):
    """An optional dependency that the call needs is not installed."""


def missing_extra(what: str, package: str, extra: str) -> MissingExtraError:
    """Return the error for `what`, which needs `package` from the optional extra `extra`."""
    return MissingExtraError(
        f"{what} needs {package}, which is not installed: pip install 'fastbn[{extra}]'"
    )
