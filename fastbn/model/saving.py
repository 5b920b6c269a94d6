"""Writing and reading of model files, for `BatchNormMLP.save`, `load` and checkpoints."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastbn.files import model_file
from fastbn.model.engine import Engine
from fastbn.model.state import Header, odd_numbers, read_state


def write(
    model: Any, path: str | os.PathLike[str] | model_file.Writable,
    fit: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None,
) -> None:  # fmt: skip
    """Write a model file, or with `fit` and its tensors a checkpoint."""
    target = model_file.destination(path)
    model_file.write_to(target, to_bytes(model, fit, tensors))


def to_bytes(
    model: Any, fit: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None
) -> bytes:
    """Return the bytes of a model file; raises TypeError or ValueError if it cannot be stored."""
    engine: Engine = model._engine
    state = engine.state()
    for name, tensor in state.items():
        odd = odd_numbers(name, tensor)
        if odd is not None:
            raise ValueError(f"the model is not written: {odd}")
    header = Header(
        engine.config, engine.steps, engine.epochs, engine.scaling.is_fitted,
        engine.target_scaling.is_fitted, model.metadata, fit,
    )  # fmt: skip
    return model_file.model_bytes({**state, **(tensors or {})}, header.to_dict())


def read(path: str | os.PathLike[str] | model_file.Readable) -> tuple[Engine, dict[str, Any]]:
    """Return engine and metadata of the model in a file; raises ModelFileError if invalid."""
    with model_file.open_model(path) as file:
        header = Header.of(file)
        engine = Engine(header.config)
        read_state(file, engine.state())
    engine.counter[0], engine.epochs = header.steps, header.epochs
    engine.scaling = engine.scaling.copied(header.input_is_fitted)
    engine.target_scaling = engine.target_scaling.copied(header.target_is_fitted)
    return engine, header.metadata
