"""Make `torch.ao.quantization.fuse_modules` accept our batch norms like PyTorch's."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from fastbn.torch._accelerate import FASTER, MARKS

SLOWER = {ours: theirs for theirs, ours in FASTER.items()}


def register_fusers() -> None:
    """Add our classes to PyTorch's table of modules that it can fuse."""
    try:
        from torch.ao.quantization import fuser_method_mappings
    except ImportError:  # PyTorch will remove it
        return
    table = getattr(fuser_method_mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})
    for kinds, fuse in list(table.items()):
        ours = tuple(FASTER.get(kind, kind) for kind in kinds)
        if ours != kinds:
            table[ours] = functools.partial(_fuse, fuse)


def _fuse(fuse: Callable[..., Any], is_qat: bool, *modules: Any) -> Any:
    return fuse(is_qat, *map(_as_pytorchs, modules))


def _as_pytorchs(module: Any) -> Any:
    """Return our batch norm as PyTorch's class, with the same tensors; other modules unchanged."""
    if type(module) not in SLOWER:
        return module
    plain = copy.copy(module)
    plain.__class__ = SLOWER[type(module)]
    for name in MARKS:
        vars(plain).pop(name, None)
    return plain
