"""The contents of model files and snapshots: names, shapes and checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastbn.checks import float_array, integer, same_shape, shown
from fastbn.errors import ModelFileError
from fastbn.files.model_file import ModelFile
from fastbn.model.config import ModelConfig
from fastbn.model.layout import BufferLayout
from fastbn.model.memory import machine_memory
from fastbn.model.scaling import fitted

MAX_COUNT = 2**53  # steps or epochs

MAX_DEPTH = 400  # nesting of metadata, since JSON is read and written by recursion

EXPECTED = "metadata: expected a dict that JSON can represent"

LAYER_TENSORS = 6  # the fewest of a layer: weight, bias, and two moments of each

COUNTS = ("steps", "input_is_fitted", "target_is_fitted")  # of a snapshot, besides tensors

# Prefixes of tensors in a checkpoint that are not the model's state.
FIT, BEST = "fit.", "best."

# Dtype and shape of each tensor, by name.
Shapes = dict[str, tuple[np.dtype, tuple[int, ...]]]


def check_metadata(value: Any) -> None:
    """Raise an error if writing the metadata as JSON would change them."""
    if not isinstance(value, dict):
        raise TypeError(f"{EXPECTED}, got {shown(value)}")
    _check_json(value, 0)


def _check_json(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise TypeError(f"{EXPECTED}, nested {MAX_DEPTH} deep at most, got more")
    if isinstance(value, dict):
        for key, one in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{EXPECTED}, with keys that are strings, got {shown(key)}")
            _check_json(one, depth + 1)
    elif isinstance(value, list):
        for one in value:
            _check_json(one, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{EXPECTED}, with finite numbers, got {shown(value)}")
    elif not (value is None or isinstance(value, str | int | float)):
        raise TypeError(f"{EXPECTED}, got {shown(value)}")


def check_room(name: str, count: int, more: int) -> None:
    """Refuse a training whose steps or epochs would exceed the largest count."""
    if count + min(more, MAX_COUNT // 2) > MAX_COUNT:  # `more` is allowed to be a large bound
        raise ValueError(f"{name}: expected at most {MAX_COUNT} in all, got {count} + {more}")


@dataclasses.dataclass(frozen=True)
class Header:
    """The contents of a model file besides its tensors; only checkpoints have a `fit`.

    The same checks run when a file is written and when it is read.
    """

    config: ModelConfig
    steps: int
    epochs: int
    input_is_fitted: bool
    target_is_fitted: bool
    metadata: dict[str, Any]
    fit: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        integer("steps", self.steps, 0, MAX_COUNT)
        integer("epochs", self.epochs, 0, MAX_COUNT)
        check_fitted("{}", vars(self), self.config)
        check_metadata(self.metadata)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that can be written as JSON."""
        values = {**vars(self), "config": self.config.to_dict()}
        if self.fit is None:
            del values["fit"]
        return values

    @classmethod
    def of(cls, file: ModelFile) -> Header:
        """Check and return the header of a file; raises ModelFileError if tensors do not fit it.

        Nothing of the size of the tensors is allocated.
        """
        values = file.header
        try:
            for name in ("config", "metadata", "fit"):
                if not isinstance(values.get(name, {}), dict):
                    raise TypeError(f"{name}: expected a JSON object, got {shown(values[name])}")
            values = {"target_is_fitted": True} | values  # missing in files of earlier versions
            header = cls(
                config=ModelConfig.from_dict(values["config"]),
                fit=values.get("fit"),
                **{name: values[name] for name in (*COUNTS, "epochs", "metadata")},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{file.path}: {error}") from error
        _check_tensors(file, header)
        return header


def check_fitted(name: str, values: dict[str, Any], config: ModelConfig) -> None:
    """Check the flags that tell whether the scalings are fitted.

    `name` is a format string for the name of a flag in errors.
    """
    fitted(name.format("input_is_fitted"), values["input_is_fitted"], config.input_normalization)
    fitted(name.format("target_is_fitted"), values["target_is_fitted"], config.target_normalization)


def state_places(
    layout: BufferLayout, config: ModelConfig
) -> Iterator[tuple[str, str, int, tuple[int, ...]]]:
    """Yield name, buffer, start and shape of every tensor of a model's state."""
    for prefix, buffer in (("", "params"), ("optimizer.m.", "m"), ("optimizer.v.", "v")):
        for name, (start, shape) in layout.places.items():
            yield prefix + name, buffer, start, shape
    for buffer in ("running_mean", "running_var"):
        for name, (start, shape) in layout.statistics_places.items():
            yield f"{name}.{buffer}", buffer, start, shape
    for part in ("center", "scale"):
        yield f"input.{part}", f"input.{part}", 0, (layout.inputs,)
    if config.target_normalization is not None:
        for part in ("center", "scale"):
            yield f"target.{part}", f"target.{part}", 0, (config.layer_sizes[-1],)


def state_shapes(layout: BufferLayout, config: ModelConfig) -> Shapes:
    """Return the dtype and shape that each tensor of a model's state has in a file, by name."""
    own, wide = np.dtype(config.dtype), np.dtype(np.float64)
    return {
        name: (wide if name.startswith(("input.", "target.")) else own, shape)
        for name, _, _, shape in state_places(layout, config)
    }


def _check_tensors(file: ModelFile, header: Header) -> None:
    layers = len(header.config.layer_sizes) - 1
    if LAYER_TENSORS * layers > len(file.tensors):
        raise ModelFileError(
            f"{file.path}: its {len(file.tensors)} tensors do not fit its {layers} layers"
        )
    expected = state_shapes(BufferLayout.of(header.config), header.config)
    names = set(file.tensors)
    if header.fit is not None:
        names = {name for name in names if not name.startswith((FIT, BEST))}
    if names != set(expected):
        odd = sorted(names ^ set(expected))
        raise ModelFileError(
            f"{file.path}: its tensors do not fit its configuration: {shown(odd[:10])}"
        )
    check_shapes(file, expected)
    size = sum(file.tensors[name].nbytes for name in expected)
    if size > machine_memory():
        raise ModelFileError(
            f"{file.path}: expected tensors that fit the memory of this machine, got {size:,} bytes"
        )


def check_shapes(file: ModelFile, expected: Shapes, prefix: str = "") -> None:
    """Raise an error if a tensor of a file is missing or has another dtype or shape.

    The scaling of inputs may be float32, as in files of earlier versions.
    """
    for name, (dtype, shape) in expected.items():
        if prefix + name not in file.tensors:
            raise ModelFileError(f"{file.path}: expected a tensor {prefix}{name}, found none")
        got = file.tensors[prefix + name]
        is_older = name.startswith("input.") and got.dtype == np.float32
        if got.shape != shape or not (got.dtype == dtype or is_older):
            raise ModelFileError(
                f"{file.path}: {prefix}{name}: expected {dtype} {shape}, "
                f"got {got.dtype} {shown(got.shape)}"
            )


def check_snapshot(snapshot: Any, views: dict[str, np.ndarray], config: ModelConfig) -> None:
    """Raise an error if this is not a snapshot of the model with these tensors."""
    if not isinstance(snapshot, dict) or set(snapshot) != {*views, *COUNTS}:
        raise ValueError("snapshot: expected a snapshot of this model, got something else")
    integer("snapshot['steps']", snapshot["steps"], 0, MAX_COUNT)
    check_fitted("snapshot[{!r}]", snapshot, config)
    for name, view in views.items():
        tensor = float_array(f"snapshot[{name!r}]", snapshot[name])
        same_shape(f"snapshot[{name!r}]", tensor, "the model's", view)


def read_state(file: ModelFile, tensors: dict[str, np.ndarray], prefix: str = "") -> None:
    """Read tensors into arrays, by name; raises ModelFileError for impossible numbers."""
    for name in sorted(tensors, key=lambda name: file.tensors[prefix + name].start):
        file.read_into(prefix + name, tensors[name])
        odd = odd_numbers(name, tensors[name])
        if odd is not None:
            raise ModelFileError(f"{file.path}: {prefix}{odd}")


def odd_numbers(name: str, tensor: np.ndarray) -> str | None:
    """Return what is wrong with a tensor's numbers, or None."""
    if not np.isfinite(tensor).all():
        return f"{name}: expected finite numbers, got others"
    if name == "target.scale" and (tensor <= 0).any():
        return f"{name}: expected numbers above 0, got {tensor.min()}"
    is_square = name.startswith("optimizer.v.") or name.endswith(".running_var")
    if is_square and (tensor < 0).any():
        return f"{name}: expected numbers of at least 0, got {tensor.min()}"
    return None
