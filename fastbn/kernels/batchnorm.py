"""The kernels of batch norm that take features as rows, for your own compiled functions."""

from fastbn.kernels.batchnorm_cn import (
    batch_norm_backward_cn,
    batch_norm_backward_cn_parallel,
    batch_norm_forward_cn,
    batch_norm_forward_cn_parallel,
    batch_norm_inference_cn,
    batch_norm_inference_cn_parallel,
    fold,
    statistics_cn,
    statistics_cn_parallel,
    update_running_statistics,
)

__all__ = [
    "batch_norm_backward_cn",
    "batch_norm_backward_cn_parallel",
    "batch_norm_forward_cn",
    "batch_norm_forward_cn_parallel",
    "batch_norm_inference_cn",
    "batch_norm_inference_cn_parallel",
    "fold",
    "statistics_cn",
    "statistics_cn_parallel",
    "update_running_statistics",
]
