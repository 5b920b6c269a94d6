"""fastbn: fast CPU training of dense networks with batch normalization.

Names are imported when they are first used (PEP 562), so that ``import fastbn`` compiles nothing
and costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "BatchNormMLP": "model",
    "EarlyStopping": "training",
    "History": "training",
    "DataFileError": "errors",
    "MissingExtraError": "errors",
    "ModelFileError": "errors",
    "adam_step": "functional",
    "batch_norm": "functional",
    "batch_norm_backward": "functional",
    "batch_norm_inference": "functional",
    "batch_statistics": "functional",
    "fold_batch_norm": "functional",
    "min_max_scale": "functional",
    "rmsprop_step": "functional",
    "sgd_step": "functional",
    "softmax_cross_entropy": "functional",
    "standardize": "functional",
    "update_running_statistics": "functional",
}
_MODULES = {"datasets", "errors", "functional", "kernels", "model", "reference", "training"}

__all__ = ["__version__", *sorted(_HOME), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"fastbn.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"fastbn.{name}")
    raise AttributeError(f"module 'fastbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
