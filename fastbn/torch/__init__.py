"""PyTorch modules and optimizers for the CPU: PyTorch's own signatures, buffers and state.

    from fastbn.torch import BatchNorm1d, Adam, accelerate

PyTorch's own code computes what they do not support (docs/torch.md).
"""

from __future__ import annotations

from fastbn.errors import missing_extra

try:
    import torch  # noqa: F401
except ImportError:
    raise missing_extra("fastbn.torch", "PyTorch", "torch") from None

from fastbn.torch._accelerate import accelerate, restore
from fastbn.torch._convert import to_torch
from fastbn.torch._modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNormLeakyReLU,
    LinearBatchNormLeakyReLU,
)
from fastbn.torch._optimizers import Adam, AdamW
from fastbn.torch._quantization import register_fusers
from fastbn.torch._read import from_torch
from fastbn.torch._sync import SyncBatchNorm

__all__ = [
    "Adam",
    "AdamW",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNormLeakyReLU",
    "LinearBatchNormLeakyReLU",
    "SyncBatchNorm",
    "accelerate",
    "from_torch",
    "restore",
    "to_torch",
]

register_fusers()


def __dir__() -> list[str]:
    return __all__
