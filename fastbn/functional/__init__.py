"""The NumPy API: functions that check their arguments, allocate results and call kernels.

Layouts
-------
``"NC"`` is sample-major, (N, C) or (N, C, *spatial) as in PyTorch; ``"CN"`` is feature-major,
(C, N). Arrays are float32 or float64; results have the dtype of the input. Strided, read-only and
byte-swapped arrays are accepted, and copied if necessary.
"""

from fastbn.functional.batchnorm import batch_norm, batch_norm_backward, batch_statistics
from fastbn.functional.losses import (
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from fastbn.functional.optimizers import adam_step, rmsprop_step, sgd_step
from fastbn.functional.preprocessing import min_max_scale, standardize
from fastbn.functional.running import (
    batch_norm_inference,
    fold_batch_norm,
    update_running_statistics,
)

__all__ = [
    "adam_step",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "batch_statistics",
    "fold_batch_norm",
    "min_max_scale",
    "rmsprop_step",
    "sgd_step",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "squared_error",
    "standardize",
    "update_running_statistics",
]


def __dir__() -> list[str]:
    return __all__
