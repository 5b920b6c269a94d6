"""What a model file and a snapshot hold: names, shapes, and the checks on the way in."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbn._buffers import Layout
from fastbn._checks import flag, float_array, integer, same_shape
from fastbn.config import ModelConfig
from fastbn.errors import ModelFileError
from fastbn.persistence import ModelFile

MAX_COUNT = 2**53  # of steps and epochs

LAYER_TENSORS = 6  # at least: weight and bias, and their moments

COUNTS = ("steps", "input_is_fitted")  # of a snapshot, beside its tensors

# What a checkpoint's names of tensors begin with, beside those of the model.
FIT, BEST = "fit.", "best."


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says beside its tensors; `fit` is that of a checkpoint."""

    config: ModelConfig
    steps: int
    epochs: int
    input_is_fitted: bool
    metadata: dict[str, Any]
    fit: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        values = {**vars(self), "config": self.config.to_dict()}
        if self.fit is None:
            del values["fit"]
        return values

    @classmethod
    def from_dict(cls, path: str | os.PathLike[str], values: dict[str, Any]) -> Header:
        """Check what a file says; ModelFileError where no model can be like that."""
        try:
            for name in ("config", "metadata", "fit"):
                if not isinstance(values.get(name, {}), dict):
                    raise TypeError(f"{name}: expected a JSON object, got {values[name]!r}")
            return cls(
                fit=values.get("fit"),
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


def layout_of(file: ModelFile, header: Header) -> Layout:
    """Return the layout of a file's model; ModelFileError where its tensors are others.

    Nothing of their size is allocated for it.
    """
    layers = len(header.config.layer_sizes) - 1
    if LAYER_TENSORS * layers > len(file.shapes):
        raise ModelFileError(
            f"{file.path}: its {len(file.shapes)} tensors do not fit its {layers} layers"
        )
    layout = Layout(header.config)
    dtype = np.dtype(header.config.dtype)
    expected = {name: shape for name, _, _, shape in state_places(layout)}
    names = set(file.shapes)
    if header.fit is not None:
        names = {name for name in names if not name.startswith((FIT, BEST))}
    if names != set(expected):
        odd = sorted(names ^ set(expected))
        raise ModelFileError(
            f"{file.path}: its tensors do not fit its configuration: {', '.join(odd[:10])}"
        )
    for name, shape in expected.items():
        check_shape(file, name, dtype, shape)
    return layout


def check_shape(file: ModelFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another dtype or shape than it has to be of."""
    if name not in file.shapes:
        raise ModelFileError(f"{file.path}: expected a tensor {name}, found none")
    got_dtype, got_shape = file.shapes[name]
    if got_shape != shape or got_dtype != dtype:
        raise ModelFileError(
            f"{file.path}: {name}: expected {dtype} {shape}, got {got_dtype} {got_shape}"
        )


def check_snapshot(snapshot: Any, views: dict[str, np.ndarray]) -> None:
    """Refuse a snapshot that is not of the model whose tensors these are."""
    if not isinstance(snapshot, dict) or set(snapshot) != {*views, *COUNTS}:
        raise ValueError("snapshot: expected what this model's `snapshot` returned, got another")
    integer("snapshot['steps']", snapshot["steps"], 0, MAX_COUNT)
    flag("snapshot['input_is_fitted']", snapshot["input_is_fitted"])
    for name, view in views.items():
        tensor = float_array(f"snapshot[{name!r}]", snapshot[name])
        same_shape(f"snapshot[{name!r}]", tensor, "the model's", view)


def read_state(file: ModelFile, views: dict[str, np.ndarray], prefix: str = "") -> None:
    """Read tensors into the views of their names; ModelFileError for numbers of no model."""
    for name, view in views.items():
        view[...] = file.read(prefix + name)
        odd = odd_numbers(name, view)
        if odd is not None:
            raise ModelFileError(f"{file.path}: {prefix}{odd}")


def odd_numbers(name: str, tensor: np.ndarray) -> str | None:
    """Say what is wrong with a tensor's numbers, if anything is."""
    if not np.isfinite(tensor).all():
        return f"{name}: expected finite numbers, got others"
    is_square = name.startswith("optimizer.v.") or name.endswith(".running_var")
    if is_square and tensor.size and tensor.min() < 0:
        return f"{name}: expected numbers of at least 0, got {tensor.min()}"
    return None
