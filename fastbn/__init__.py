"""fastbn: fast CPU training of dense networks with batch normalization.

Names are imported when they are first used (PEP 562), so that ``import fastbn`` compiles nothing
and costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbn import (
        datasets as datasets,
    )
    from fastbn import (
        errors as errors,
    )
    from fastbn import (
        functional as functional,
    )
    from fastbn import (
        kernels as kernels,
    )
    from fastbn import (
        model as model,
    )
    from fastbn import (
        reference as reference,
    )
    from fastbn import (
        training as training,
    )
    from fastbn.errors import (
        DataFileError as DataFileError,
    )
    from fastbn.errors import (
        DivergenceError as DivergenceError,
    )
    from fastbn.errors import (
        MissingExtraError as MissingExtraError,
    )
    from fastbn.errors import (
        ModelFileError as ModelFileError,
    )
    from fastbn.fit.history import (
        EarlyStopping as EarlyStopping,
    )
    from fastbn.fit.history import (
        History as History,
    )
    from fastbn.functional import (
        adam_step as adam_step,
    )
    from fastbn.functional import (
        batch_norm as batch_norm,
    )
    from fastbn.functional import (
        batch_norm_backward as batch_norm_backward,
    )
    from fastbn.functional import (
        batch_norm_inference as batch_norm_inference,
    )
    from fastbn.functional import (
        batch_statistics as batch_statistics,
    )
    from fastbn.functional import (
        fold_batch_norm as fold_batch_norm,
    )
    from fastbn.functional import (
        min_max_scale as min_max_scale,
    )
    from fastbn.functional import (
        rmsprop_step as rmsprop_step,
    )
    from fastbn.functional import (
        sgd_step as sgd_step,
    )
    from fastbn.functional import (
        sigmoid_cross_entropy as sigmoid_cross_entropy,
    )
    from fastbn.functional import (
        softmax_cross_entropy as softmax_cross_entropy,
    )
    from fastbn.functional import (
        squared_error as squared_error,
    )
    from fastbn.functional import (
        standardize as standardize,
    )
    from fastbn.functional import (
        update_running_statistics as update_running_statistics,
    )
    from fastbn.model import (
        BatchNormMLP as BatchNormMLP,
    )

__version__ = "0.1.0"

__path__.append(f"{__path__[0]}/moved")  # where pickles of version 0.1 look for classes

_HOME = {
    "BatchNormMLP": "model.model",
    "EarlyStopping": "fit.history",
    "History": "fit.history",
    "DataFileError": "errors",
    "DivergenceError": "errors",
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
    "sigmoid_cross_entropy": "functional",
    "softmax_cross_entropy": "functional",
    "squared_error": "functional",
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
