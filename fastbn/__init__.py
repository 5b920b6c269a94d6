"""fastbn: fast CPU training of dense networks with batch normalization.

Names are imported when they are first used (PEP 562): ``import fastbn`` loads neither NumPy nor
Numba, and compiles nothing.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BatchNormMLP", "DataFileError", "DivergenceError", "EarlyStopping", "History",
    "MissingExtraError", "ModelFileError", "__version__", "adam_step", "batch_norm",
    "batch_norm_backward", "batch_norm_inference", "batch_statistics", "datasets", "errors",
    "fold_batch_norm", "functional", "kernels", "min_max_scale", "model", "options", "reference",
    "rmsprop_step", "schedules", "sgd_step", "sigmoid_cross_entropy", "softmax_cross_entropy",
    "squared_error", "standardize", "training", "update_running_statistics",
]  # fmt: skip

# Modules that `from fastbn import *` does not import, with the package that they need.
_EDGES = {
    "doctor": None, "plotting": None, "profiling": None,
    "sklearn": "sklearn", "torch": "torch",
}  # fmt: skip

if TYPE_CHECKING:
    from fastbn import (
        datasets,
        doctor,
        errors,
        functional,
        kernels,
        model,
        options,
        plotting,
        profiling,
        reference,
        schedules,
        sklearn,
        torch,
        training,
    )
    from fastbn.errors import DataFileError, DivergenceError, MissingExtraError, ModelFileError
    from fastbn.fit.history import EarlyStopping, History
    from fastbn.functional import (
        adam_step,
        batch_norm,
        batch_norm_backward,
        batch_norm_inference,
        batch_statistics,
        fold_batch_norm,
        min_max_scale,
        rmsprop_step,
        sgd_step,
        sigmoid_cross_entropy,
        softmax_cross_entropy,
        squared_error,
        standardize,
        update_running_statistics,
    )
    from fastbn.model import BatchNormMLP

    __all__ += ["doctor", "plotting", "profiling", "sklearn", "torch"]
else:  # a type checker that saw __getattr__ would accept every misspelt name
    _HOME = {
        "BatchNormMLP": "model", "EarlyStopping": "fit.history", "History": "fit.history",
        "DataFileError": "errors", "DivergenceError": "errors", "MissingExtraError": "errors",
        "ModelFileError": "errors",
    }  # fmt: skip
    _MODULES = {
        "datasets", "errors", "functional", "kernels", "model", "options", "reference",
        "schedules", "training", *_EDGES,
    }  # fmt: skip

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"fastbn.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'fastbn' has no attribute {name!r}")
        home = importlib.import_module(f"fastbn.{_HOME.get(name, 'functional')}")
        value = globals()[name] = getattr(home, name)
        return value


def __dir__() -> list[str]:
    edges = [
        name
        for name, package in _EDGES.items()
        if package is None or importlib.util.find_spec(package) is not None
    ]
    return sorted([*__all__, *edges])


__path__.append(f"{__path__[0]}/moved")  # pickles of version 0.1 find their classes there
