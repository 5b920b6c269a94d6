"""What a model file and a snapshot hold: names, shapes, and the checks on the way in."""

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
from fastbn.model.layout import Layout
from fastbn.model.memory import machine_memory
from fastbn.model.scaling import fitted

MAX_COUNT = 2**53  # of steps and epochs

MAX_DEPTH = 400  # of lists and dicts in metadata: JSON is read and written by recursion

EXPECTED = "metadata: expected a dict of what JSON can hold"

LAYER_TENSORS = 6  # at least: weight and bias, and their moments

COUNTS = ("steps", "input_is_fitted", "target_is_fitted")  # of a snapshot, beside its tensors

# Tensors of float64 whatever the model's dtype is: what data is scaled by.
SCALINGS = ("input.center", "input.scale", "target.center", "target.scale")

# What a checkpoint's names of tensors begin with, beside those of the model.
FIT, BEST = "fit.", "best."


def check_metadata(user: Any) -> None:
    """Refuse metadata that would not come back from JSON as it is."""
    if not isinstance(user, dict):
        raise TypeError(f"{EXPECTED}, got {shown(user)}")
    _check_json(user, 0)


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
    """Refuse a training whose steps or epochs could not be counted."""
    if count + min(more, MAX_COUNT // 2) > MAX_COUNT:  # nobody gets to half of it
        raise ValueError(f"{name}: expected at most {MAX_COUNT} in all, got {count} + {more}")


@dataclasses.dataclass(frozen=True)
class Header:
    """What a model file says beside its tensors; `fit` is that of a checkpoint.

    What is written is checked as what is read is, so that both are the same.
    """

    config: ModelConfig
    steps: int
    epochs: int
    input_is_fitted: bool
    target_is_fitted: bool
    metadata: dict[str, Any]
    fit: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        checked = {
            "steps": integer("steps", self.steps, 0, MAX_COUNT),
            "epochs": integer("epochs", self.epochs, 0, MAX_COUNT),
        }
        checked |= checked_fitted("{}", vars(self), self.config)
        check_metadata(self.metadata)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        values = {**vars(self), "config": self.config.to_dict()}
        if self.fit is None:
            del values["fit"]
        return values

    @classmethod
    def from_dict(cls, path: Any, values: dict[str, Any]) -> Header:
        """Check what a file says; ModelFileError where no model can be like that."""
        try:
            for name in ("config", "metadata", "fit"):
                if not isinstance(values.get(name, {}), dict):
                    raise TypeError(f"{name}: expected a JSON object, got {shown(values[name])}")
            values = {"target_is_fitted": True} | values  # files of before there was one
            return cls(
                config=ModelConfig.from_dict(values["config"]),
                fit=values.get("fit"),
                **{name: values[name] for name in (*COUNTS, "epochs", "metadata")},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path}: {error}") from error


def checked_fitted(name: str, values: dict[str, Any], config: ModelConfig) -> dict[str, bool]:
    """Return what `values` say of the scalings of inputs and targets: whether they have seen data.

    Errors name one of them as the format `name` does.
    """
    modes = {
        "input_is_fitted": config.input_normalization,
        "target_is_fitted": config.target_normalization,
    }
    return {one: fitted(name.format(one), values[one], mode) for one, mode in modes.items()}


def state_places(
    layout: Layout, config: ModelConfig
) -> Iterator[tuple[str, str, int, tuple[int, ...]]]:
    """Yield name, buffer, start and shape of every tensor of a model's state."""
    for prefix, buffer in (("", "params"), ("optimizer.m.", "m"), ("optimizer.v.", "v")):
        for name, (start, shape) in layout.places.items():
            yield prefix + name, buffer, start, shape
    for buffer in ("running_mean", "running_var"):
        for name, (start, shape) in layout.statistics_places.items():
            yield f"{name}.{buffer}", buffer, start, shape
    for buffer in ("center", "scale"):
        yield f"input.{buffer}", buffer, 0, (layout.inputs,)
    if config.target_normalization is not None:
        for buffer in ("center", "scale"):
            yield f"target.{buffer}", f"target_{buffer}", 0, (config.layer_sizes[-1],)


def state_views(
    layout: Layout, config: ModelConfig, buffers: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Views of every tensor of a model's state, by name."""
    return {
        name: layout.view(buffers[buffer], start, shape)
        for name, buffer, start, shape in state_places(layout, config)
    }


def expected_tensors(
    layout: Layout, config: ModelConfig
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return the dtype and the shape in a file of every tensor of a model's state, by name."""
    own, wide = np.dtype(config.dtype), np.dtype(np.float64)
    return {
        name: (wide if name in SCALINGS else own, shape)
        for name, _, _, shape in state_places(layout, config)
    }


def layout_of(file: ModelFile, header: Header) -> Layout:
    """Return the layout of a file's model; ModelFileError where its tensors are others.

    Nothing of their size is allocated for it.
    """
    layers = len(header.config.layer_sizes) - 1
    if LAYER_TENSORS * layers > len(file.tensors):
        raise ModelFileError(
            f"{file.path}: its {len(file.tensors)} tensors do not fit its {layers} layers"
        )
    layout = Layout.of(header.config)
    expected = expected_tensors(layout, header.config)
    names = set(file.tensors)
    if header.fit is not None:
        names = {name for name in names if not name.startswith((FIT, BEST))}
    if names != set(expected):
        odd = sorted(names ^ set(expected))
        raise ModelFileError(
            f"{file.path}: its tensors do not fit its configuration: {shown(odd[:10])}"
        )
    for name, (dtype, shape) in expected.items():
        check_shape(file, name, dtype, shape)
    size = sum(file.tensors[name].nbytes for name in expected)
    if size > machine_memory():
        raise ModelFileError(
            f"{file.path}: expected tensors that fit the memory of this machine, got {size:,} bytes"
        )
    return layout


def check_shape(file: ModelFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another dtype or shape than it has to be of.

    Earlier versions wrote what inputs are scaled by in the model's dtype.
    """
    if name not in file.tensors:
        raise ModelFileError(f"{file.path}: expected a tensor {name}, found none")
    got = file.tensors[name]
    is_older = name.removeprefix(BEST).startswith("input.") and got.dtype == np.float32
    if got.shape != shape or not (got.dtype == dtype or is_older):
        raise ModelFileError(
            f"{file.path}: {name}: expected {dtype} {shape}, got {got.dtype} {shown(got.shape)}"
        )


def check_snapshot(snapshot: Any, views: dict[str, np.ndarray], config: ModelConfig) -> None:
    """Refuse a snapshot that is not of the model whose tensors these are."""
    if not isinstance(snapshot, dict) or set(snapshot) != {*views, *COUNTS}:
        raise ValueError("snapshot: expected what this model's `snapshot` returned, got another")
    integer("snapshot['steps']", snapshot["steps"], 0, MAX_COUNT)
    checked_fitted("snapshot[{!r}]", snapshot, config)
    for name, view in views.items():
        tensor = float_array(f"snapshot[{name!r}]", snapshot[name])
        same_shape(f"snapshot[{name!r}]", tensor, "the model's", view)


def read_state(file: ModelFile, views: dict[str, np.ndarray], prefix: str = "") -> None:
    """Read tensors into the views of their names; ModelFileError for numbers of no model."""
    for name in sorted(views, key=lambda name: file.tensors[prefix + name].start):
        view = views[name]
        file.read_into(prefix + name, view)
        odd = odd_numbers(name, view)
        if odd is not None:
            raise ModelFileError(f"{file.path}: {prefix}{odd}")


def odd_numbers(name: str, tensor: np.ndarray) -> str | None:
    """Say what is wrong with a tensor's numbers, if anything is."""
    if not np.isfinite(tensor).all():
        return f"{name}: expected finite numbers, got others"
    if name == "target.scale" and tensor.size and tensor.min() <= 0:
        return f"{name}: expected numbers above 0, got {tensor.min()}"
    is_square = name.startswith("optimizer.v.") or name.endswith(".running_var")
    if is_square and tensor.size and tensor.min() < 0:
        return f"{name}: expected numbers of at least 0, got {tensor.min()}"
    return None
