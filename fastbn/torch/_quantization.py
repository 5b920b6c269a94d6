"""Let `torch.ao.quantization.fuse_modules` take our batch norms for PyTorch's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from fastbn.torch._accelerate import FASTER, MARKS

SLOWER = {ours: theirs for theirs, ours in FASTER.items()}


def register_fusers() -> None:
    """Enter our classes into PyTorch's table of what may be fused, beside its own."""
    try:
        from torch.ao.quantization import fuser_method_mappings
    except ImportError:  # it is to leave PyTorch
        return
    table = getattr(fuser_method_mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})
    for kinds, fuse in list(table.items()):
        ours = tuple(FASTER.get(kind, kind) for kind in kinds)
        if ours != kinds:
            table[ours] = functools.partial(_fuse, fuse)


def _fuse(fuse: Callable[..., Any], is_qat: bool, *modules: Any) -> Any:
    return fuse(is_qat, *map(_as_pytorchs, modules))


def _as_pytorchs(module: Any) -> Any:
    """Return a batch norm of PyTorch's class with the same tensors; other modules as they are."""
    if type(module) not in SLOWER:
        return module
    plain = copy.copy(module)
    plain.__class__ = SLOWER[type(module)]
    for name in MARKS:
        vars(plain).pop(name, None)
    return plain
