"""The model class, with its configuration, memory, data preparation and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbn.model.model import BatchNormMLP
else:

    def __getattr__(name: str) -> Any:
        if name == "BatchNormMLP":  # imported late, since it imports the compiler
            from fastbn.model.model import BatchNormMLP

            return BatchNormMLP
        raise AttributeError(f"module 'fastbn.model' has no attribute {name!r}")


__all__ = ["BatchNormMLP"]


def __dir__() -> list[str]:
    return __all__
