"""scikit-learn's callback protocol, where the installed version has it (1.9 and later)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from sklearn import callback as _callback
except ImportError:  # an earlier version: nothing is mixed in, and methods stay as they are
    _callback = None


class _NoSupport:
    """Nothing to mix in."""


CallbackSupportMixin: Any = _callback.CallbackSupportMixin if _callback else _NoSupport


def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let callbacks that a fit has set up be torn down at its end, whatever happens."""
    return _callback.with_callbacks(method) if _callback else method


class Hooks:
    """Calls the hooks of an estimator's callbacks: of the fit, and of each of its epochs.

    `reconstruct` returns the fitted attributes as they are now, for callbacks that ask for a fitted
    estimator.
    """

    def __init__(
        self,
        estimator: Any,
        data: dict[str, Any],
        epochs: int,
        reconstruct: Callable[[], dict[str, Any]],
    ) -> None:
        self._root: Any = None
        self._epoch: Any = None
        self._last = epochs
        self._arguments = {"estimator": estimator, **data}
        self._ending = {**self._arguments, "reconstruction_attributes": reconstruct}
        if hasattr(estimator, "_init_callback_context"):
            self._root = estimator._init_callback_context(max_subtasks=epochs)

    def begin(self) -> None:
        """Begin the fit and its first epoch."""
        if self._root is not None:
            self._root.call_on_fit_task_begin(**self._arguments)
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch = self._root.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._ending)

    def end_epoch(self, epochs: int, is_last: bool) -> bool:
        """End an epoch, `epochs` in all now; return whether a callback wants the fit to stop."""
        if self._root is None:
            return False
        stop = bool(self._epoch.call_on_fit_task_end(**self._ending))
        self._epoch = None
        if not (stop or is_last or epochs == self._last):
            self._begin_epoch()
        return stop

    def end(self) -> None:
        """End the fit, and an epoch that was left half-way."""
        if self._root is not None:
            if self._epoch is not None:
                self._epoch.call_on_fit_task_end(estimator=self._arguments["estimator"])
            self._root.call_on_fit_task_end(**self._ending)
