"""Batch norm of features that are rows, for your own compiled code: examples/own_loop.py.

The kernels are in `batchnorm_cn`, `statistics_cn` and `running`; docs/batchnorm.md has the
mathematics.
"""

from fastbn.kernels.batchnorm_cn import (
    batch_norm_backward_cn,
    batch_norm_backward_cn_parallel,
    batch_norm_forward_cn,
    batch_norm_forward_cn_parallel,
    batch_norm_inference_cn,
    batch_norm_inference_cn_parallel,
)
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.kernels.running import fold, update_running_statistics
from fastbn.kernels.statistics_cn import statistics_cn, statistics_cn_parallel

__all__ = [
    "Norm", "batch_norm_backward_cn", "batch_norm_backward_cn_parallel", "batch_norm_forward_cn",
    "batch_norm_forward_cn_parallel", "batch_norm_inference_cn", "batch_norm_inference_cn_parallel",
    "fold", "statistics_cn", "statistics_cn_parallel", "update_running_statistics",
]  # fmt: skip
