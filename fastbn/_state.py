"""What a model file and a snapshot hold: names, shapes, and the checks on the way in."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbn._buffers import Layout
from fastbn._checks import flag, integer
from fastbn.config import ModelConfig
from fastbn.errors import ModelFileError

MAX_COUNT = 2**53  # of steps and epochs


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says beside its tensors."""

    config: ModelConfig
    steps: int
    epochs: int
    input_is_fitted: bool
    metadata: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        return {**vars(self), "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, path: str | os.PathLike[str], values: dict[str, Any]) -> Header:
        """Check what a file says; ModelFileError where no model can be like that."""
        try:
            if not isinstance(values["config"], dict) or not isinstance(values["metadata"], dict):
                raise TypeError("config and metadata: expected JSON objects, got others")
            return cls(
                config=ModelConfig.from_dict(values["config"]),
                steps=integer("steps", values["steps"], 0, MAX_COUNT),
                epochs=integer("epochs", values["epochs"], 0, MAX_COUNT),
                input_is_fitted=flag("input_is_fitted", values["input_is_fitted"]),
                metadata=values["metadata"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path}: {error}") from error


def state_places(layout: Layout) -> Iterator[tuple[str, str, int, tuple[int, ...]]]:
    """Yield name, buffer, start and shape of every tensor of a model's state."""
    for prefix, buffer in (("", "params"), ("optimizer.m.", "m"), ("optimizer.v.", "v")):
        for name, (start, shape) in layout.places.items():
            yield prefix + name, buffer, start, shape
    for buffer in ("running_mean", "running_var"):
        for name, (start, shape) in layout.statistics_places.items():
            yield f"{name}.{buffer}", buffer, start, shape
    for buffer in ("center", "scale"):
        yield f"input.{buffer}", buffer, 0, (layout.inputs,)


def state_views(layout: Layout, buffers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Views of every tensor of a model's state, by name."""
    return {
        name: layout.view(buffers[buffer], start, shape)
        for name, buffer, start, shape in state_places(layout)
    }


def check_tensors(
    path: str | os.PathLike[str],
    layout: Layout,
    dtype: np.dtype,
    tensors: dict[str, np.ndarray],
) -> None:
    """Refuse tensors that are not those of the layout; nothing is allocated for it."""
    expected = {name: shape for name, _, _, shape in state_places(layout)}
    if set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))
        raise ModelFileError(f"{path}: its tensors do not fit its configuration: {odd}")
    for name, shape in expected.items():
        got = tensors[name]
        if got.shape != shape or got.dtype != dtype:
            raise ModelFileError(
                f"{path}: {name}: expected {dtype} {shape}, got {got.dtype} {got.shape}"
            )
