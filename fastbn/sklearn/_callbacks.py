"""scikit-learn's callback protocol, if the installed version has it (1.9 and later)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from sklearn import callback as _callback
except ImportError:
    _callback = None


class _NoTask:
    """A task without callbacks."""

    def subcontext(self, **_: Any) -> _NoTask:
        return self

    def call_on_fit_task_begin(self, **_: Any) -> None:
        pass

    def call_on_fit_task_end(self, **_: Any) -> bool:
        return False


class _NoSupport:
    """Stands in for scikit-learn's mixin."""

    def _init_callback_context(self, **_: Any) -> _NoTask:
        return _NoTask()


CallbackSupportMixin: Any = _callback.CallbackSupportMixin if _callback else _NoSupport


def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
    """Tear callbacks down when the method ends or raises."""
    return _callback.with_callbacks(method) if _callback else method


class Hooks:
    """Calls the callbacks of an estimator for a fit and each of its epochs.

    `reconstruct` returns the present fitted attributes, for callbacks that use a fitted estimator.
    """

    def __init__(
        self, estimator: Any, data: dict[str, Any], epochs: int, reconstruct: Callable[[], Any]
    ) -> None:
        self._fit = estimator._init_callback_context(max_subtasks=epochs)
        self._epoch: Any = None
        self._arguments = {
            "estimator": estimator, **data, "reconstruction_attributes": reconstruct,
        }  # fmt: skip

    def begin(self) -> None:
        """Begin the fit and its first epoch."""
        self._fit.call_on_fit_task_begin(**self._arguments)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch = self._fit.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._arguments)

    def end_epoch(self, is_last: bool) -> bool:
        """End an epoch; return whether a callback asks for the fit to stop."""
        stop = bool(self._epoch.call_on_fit_task_end(**self._arguments))
        self._epoch = None
        if not (stop or is_last):
            self._begin_epoch()
        return stop

    def end(self) -> None:
        """End the fit, and an epoch that was interrupted."""
        if self._epoch is not None:
            self._epoch.call_on_fit_task_end(**self._arguments)
        self._fit.call_on_fit_task_end(**self._arguments)
