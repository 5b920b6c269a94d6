"""Checkpoints: model files that also say where a fit is, so that it can go on to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from typing import Any

import numpy as np

from fastbn import persistence
from fastbn._history import FitState
from fastbn._state import BEST, FIT, Header, check_shape, layout_of, read_state
from fastbn.errors import ModelFileError
from fastbn.kernels.network import Samples
from fastbn.training import Plan, minibatch_bounds

COUNTS = ("steps", "input_is_fitted")  # of a snapshot, beside its tensors


def facts_of(plan: Plan, samples: Samples, validated: bool) -> dict[str, Any]:
    """Return what has to be the same when a fit goes on, as JSON will give it back."""
    checksum = 0
    for array in (samples.x, samples.labels, samples.targets, samples.weight):
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8), checksum)
    facts = {
        **dataclasses.asdict(plan),
        "schedule": "a function" if callable(plan.schedule) else plan.schedule,
        "validation_data": validated,
        "samples": len(samples.x),
        "data": checksum,
    }
    result: dict[str, Any] = json.loads(json.dumps(facts))
    return result


class CheckpointFile:
    """A checkpoint's path, and how often it is written."""

    def __init__(
        self, model: Any, path: str | os.PathLike[str], every: int | None, facts: dict[str, Any]
    ) -> None:
        self.path, self.every = persistence.writable_file(path), every
        self._model, self._facts = model, facts
        self._epochs = facts["epochs"]
        self._steps = minibatch_bounds(facts["samples"], facts["batch_size"]).size - 1

    def write(self, state: FitState) -> None:
        """Write the model and the state of its fit: the whole file, or nothing."""
        tensors = {f"{FIT}losses": state.losses, f"{FIT}correct": state.correct}
        for name, tensor in (state.best_state or {}).items():
            if name not in COUNTS:
                tensors[BEST + name] = tensor
        self._model.write(self.path, {"facts": self._facts, **state.to_dict()}, tensors)

    def resume(self) -> FitState | None:
        """Bring the model to where the checkpoint is, and return its fit; None if there is none.

        Nothing is changed where the file is damaged, or of another model or fit.
        """
        if not self.path.exists():
            return None
        model = self._model
        with persistence.open_model(self.path) as file:
            header = Header.from_dict(self.path, file.header)
            layout_of(file, header)
            if header.fit is None:
                raise ValueError(f"checkpoint: {self.path} is a model, and not of a fit")
            _same("the model's ", model.config.to_dict(), header.config.to_dict(), self.path)
            _same("", self._facts, header.fit.get("facts"), self.path)
            try:
                state = FitState.from_dict(header.fit)
            except (KeyError, TypeError, ValueError) as error:
                raise ModelFileError(f"{self.path}: fit: {error!r}") from error
            _, shape = file.shapes.get(f"{FIT}losses", ("", ()))
            for name, dtype in (("losses", np.float64), ("correct", np.int64)):
                check_shape(file, FIT + name, np.dtype(dtype), shape[:1])
            epochs, done = state.history.epochs, int(np.prod(shape))
            if not (done < self._steps and epochs + (done > 0) <= self._epochs):
                raise ModelFileError(
                    f"{self.path}: fit: expected less than {self._epochs} epochs of {self._steps} "
                    f"steps, got {epochs} and {done} steps"
                )
            state.losses, state.correct = file.read(f"{FIT}losses"), file.read(f"{FIT}correct")
            tensors = _read(file, model)
            if state.best_state is not None:
                state.best_state.update(_read(file, model, BEST))
        model.restore({**tensors, "steps": header.steps, "input_is_fitted": header.input_is_fitted})
        # an epoch that has begun has drawn its order, and draws the same one again
        model.epochs = header.epochs - state.has_begun
        return state


def _read(file: persistence.ModelFile, model: Any, prefix: str = "") -> dict[str, Any]:
    """Read the tensors of a model's state into memory of their own."""
    names = {name: tensor for name, tensor in model.snapshot().items() if name not in COUNTS}
    for name, tensor in names.items():
        check_shape(file, prefix + name, tensor.dtype, tensor.shape)
    read_state(file, names, prefix)
    return names


def _same(whose: str, now: dict[str, Any], then: Any, path: os.PathLike[str]) -> None:
    """Refuse to go on with something else than what the checkpoint is of."""
    if not isinstance(then, dict):
        raise ModelFileError(f"{path}: fit: expected what it is of, got {then!r}")
    for name, value in now.items():
        if then.get(name) != value:
            raise ValueError(
                f"resume: expected {whose}{name} as in {path}, {then.get(name)!r}, got {value!r}"
            )
