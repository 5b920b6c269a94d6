"""Checkpoints: model files with the state of a fit, from which it continues with the same bits."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import zlib
from typing import Any, get_args

import numpy as np

from fastbn.checks import choice, flag, integer, number, shown
from fastbn.errors import ModelFileError
from fastbn.files import model_file
from fastbn.files.model_file import ModelFile
from fastbn.fit.history import FitState, History
from fastbn.fit.plan import Plan, minibatch_bounds
from fastbn.model import saving
from fastbn.model.inputs import Data
from fastbn.model.measures import float64_blocks
from fastbn.model.scaling import InputScaling, TargetScaling
from fastbn.model.state import (
    BEST,
    COUNTS,
    FIT,
    MAX_COUNT,
    Header,
    check_fitted,
    check_shapes,
    read_state,
    state_shapes,
)
from fastbn.options import StopReason

FLOAT64, INT64 = np.dtype(np.float64), np.dtype(np.int64)

# Dtypes of the lists in the history.
LISTS = {
    field.name: INT64 if field.name in ("steps", "skipped") else FLOAT64
    for field in dataclasses.fields(History)
    if field.name != "stop_reason"
}

Scalings = tuple[InputScaling, TargetScaling]


def checksum(data: Data, scalings: Scalings) -> int:
    """Return a checksum of the data before scaling; it does not depend on their memory layout."""
    inputs, targets = scalings
    result = 0
    for array in (
        *(float64_blocks(data.x) if inputs.is_wide(data.x) else [data.x]),
        data.labels,
        *(float64_blocks(data.targets) if targets.mode is not None else [data.targets]),
        data.weight,
    ):
        result = zlib.crc32(array.reshape(-1).view(np.uint8), result)
    return result


class OtherDataError(ValueError):
    """The fit cannot be resumed, because the checkpoint was written for other data."""


class CheckpointFile:
    """The checkpoint that a fit writes, and from which it can resume."""

    def __init__(
        self, model: Any, path: str | os.PathLike[str], every: int | None, plan: Plan,
        data: Data, validation: Data | None,
    ) -> None:  # fmt: skip
        """Raise an error if the file cannot be written."""
        self.path, self.every = model_file.writable_file(path, "checkpoint"), every
        folder = self.path.parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            said = f"checkpoint: cannot write in the folder {folder} ({error.strerror})"
            raise OSError(error.errno, said) from None
        self._model, self._engine, self._plan = model, model._engine, plan
        self._rows = np.diff(minibatch_bounds(len(data.x), plan.batch_size))
        self._found: tuple[FitState, dict[str, Any], Header] | None = None
        rule = plan.early_stopping
        scalings = self._engine.scaling, self._engine.target_scaling
        self._facts = {
            "epochs": plan.epochs,
            "batch_size": plan.batch_size,
            "schedule": "a function" if callable(plan.schedule) else plan.schedule,
            "shuffle": plan.shuffle,
            "early_stopping": None if rule is None else dataclasses.asdict(rule),
            "until_accuracy": plan.until_accuracy,
            "samples": len(data.x),
            "data": checksum(data, scalings),
            "validation_data": validation and checksum(validation, scalings),
        }
        keeps_best = rule is not None and rule.restore_best
        best = self._engine.snapshot() if keeps_best else None
        saving.to_bytes(model, *self._parts(FitState(best_state=best)))

    def write(self, state: FitState) -> None:
        """Write the model and the state of its fit: the whole file, or nothing."""
        saving.write(self._model, self.path, *self._parts(state))

    def _parts(self, state: FitState) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the entry in the header and the tensors for a fit."""
        history, best = state.history, state.best_state
        tensors = {f"{FIT}losses": state.losses, f"{FIT}correct": state.correct}
        for name, dtype in LISTS.items():
            tensors[FIT + name] = np.asarray(getattr(history, name), dtype)
        for name, tensor in (best or {}).items():
            if name not in COUNTS:
                tensors[BEST + name] = tensor
        fit = {
            "facts": self._facts,
            "stop_reason": history.stop_reason,
            "has_begun": state.has_begun,
            "best": state.best,
            "since": state.since,
            "best_counts": best and {name: best[name] for name in COUNTS},
            "seconds": state.seconds,
            "is_over": state.is_over,
        }
        return fit, tensors

    def read(self, inputs: InputScaling, outputs: TargetScaling) -> Scalings:
        """Read the checkpoint, if there is one, and return its scalings instead of the given ones.

        Raises an error if it is damaged, or of another model or fit. The model does not change.
        """
        if not self.path.exists():
            return inputs, outputs
        with model_file.open_model(self.path) as file:
            header = Header.of(file)
            if header.fit is None:
                raise ValueError(f"checkpoint: expected that of a fit, got the model {self.path}")
            config = self._engine.config.to_dict()
            self._check_same("the model's ", config, header.config.to_dict())
            self._check_same("", self._facts, header.fit.get("facts"))
            try:
                state = self._read_fit(file, header.fit)
                _require(header.epochs >= state.has_begun, "epochs: expected at least 1, got 0")
            except (KeyError, TypeError, ValueError) as error:
                raise ModelFileError(f"{self.path}: fit: {error}") from error
            snapshot = self._read_tensors(file, "")
            if state.best_state is not None:
                state.best_state.update(self._read_tensors(file, BEST))
        snapshot |= {name: getattr(header, name) for name in COUNTS}
        self._found = state, snapshot, header
        center, scale = snapshot["input.center"], snapshot["input.scale"]
        inputs = dataclasses.replace(inputs, center=center, scale=scale)
        if outputs.mode is not None:
            center, scale = snapshot["target.center"], snapshot["target.scale"]
            outputs = dataclasses.replace(outputs, center=center, scale=scale)
        return inputs, outputs

    def apply(self) -> FitState:
        """Set the model to the checkpoint's state, and return the state of the fit."""
        if self._found is None:
            return FitState()
        state, snapshot, header = self._found
        self._found = None
        self._engine.restore(snapshot)
        # if an epoch had begun, the loop counts it again and draws the same order
        self._engine.epochs = header.epochs - state.has_begun
        self._model.metadata = header.metadata
        return state

    def _check_same(self, whose: str, now: dict[str, Any], then: Any) -> None:
        """Raise an error if settings of the model or the fit differ from the checkpoint's."""
        if not isinstance(then, dict):
            raise ModelFileError(f"{self.path}: fit: expected its settings, got {then!r:.80}")
        for name, got in now.items():
            expected = then.get(name)
            if got == expected:
                continue
            if name in ("data", "validation_data"):  # checksums
                if None not in (expected, got):
                    raise OtherDataError(
                        f"resume: expected {name} as in {self.path}, got others: the checkpoint "
                        "was written for different data, or for rows or columns in another order"
                    )
                said = ["none" if one is None else "some" for one in (expected, got)]
            else:
                said = [f"{expected!r:.80}", f"{got!r:.80}"]
            raise ValueError(
                f"resume: expected {whose}{name} as in {self.path}, {said[0]}, got {said[1]}"
            )

    def _read_fit(self, file: ModelFile, fit: dict[str, Any]) -> FitState:
        """Return the state of the fit; raise an error if it is impossible with this plan."""
        history = self._read_history(file, fit)
        losses = _read_list(file, "losses", FLOAT64, 0, self._rows.size - 1)
        correct = _read_list(file, "correct", INT64, losses.size, losses.size)
        counts = fit["best_counts"]
        if counts is not None:
            counts = {"target_is_fitted": True} | counts  # missing in files of earlier versions
            integer("best_counts.steps", counts["steps"], 0, MAX_COUNT)
            check_fitted("best_counts.{}", counts, self._engine.config)
        state = FitState(
            history=history,
            losses=losses,
            correct=correct,
            has_begun=flag("has_begun", fit["has_begun"]),
            best=fit["best"],
            since=integer("since", fit["since"], 0),
            best_state=counts and {name: counts[name] for name in COUNTS},
            seconds=number("seconds", fit["seconds"], 0.0),
            is_over=flag("is_over", fit["is_over"]),
        )
        names = {FIT + name for name in ("losses", "correct", *LISTS)}
        prefixes = FIT if counts else (FIT, BEST)
        odd = {name for name in file.tensors if name.startswith(prefixes)} - names
        hits = (correct >= -1) & (correct <= self._rows[: losses.size])
        is_number = type(state.best) is float and not math.isnan(state.best)
        _require(not odd, f"expected no tensors {shown(sorted(odd)[:10])}")
        _require(not np.isinf(losses).any(), "losses: expected finite ones or NaN, got infinity")
        _require(bool(hits.all()), "correct: expected -1 to the rows of each step, got others")
        _require(is_number, f"best: expected a number, got {state.best!r:.80}")
        _require(
            not state.is_over if state.has_begun else losses.size == 0,
            "has_begun: expected True in the middle of an epoch, and False after the fit",
        )
        _require(
            history.epochs < self._plan.epochs + state.is_over,
            f"loss: expected fewer epochs than {self._plan.epochs} in all",
        )
        return state

    def _read_history(self, file: ModelFile, fit: dict[str, Any]) -> History:
        plan, steps = self._plan, self._rows.size
        reason = choice("stop_reason", fit["stop_reason"], get_args(StopReason))
        epochs = _read_list(file, "loss", FLOAT64, 0, plan.epochs).size
        full = {"loss", "lr", "steps", "seconds"}
        if plan.score == "accuracy":
            full.add("accuracy")
        if self._facts["validation_data"] is not None:
            full |= {"val_loss", f"val_{plan.score}"}
        lists = {}
        for name, dtype in LISTS.items():
            size = epochs if name in full else 0
            limits = (0, plan.epochs * steps) if name == "skipped" else (size, size)
            lists[name] = _read_list(file, name, dtype, *limits)
        whole = epochs - (reason == "diverged")  # its last epoch may be incomplete
        are_whole = np.array_equal(lists["steps"][:whole], np.arange(1, epochs + 1)[:whole] * steps)
        _require(are_whole, "steps: expected the steps of whole epochs, got others")
        return History(
            **{name: tensor.tolist() for name, tensor in lists.items()}, stop_reason=reason
        )

    def _read_tensors(self, file: ModelFile, prefix: str) -> dict[str, Any]:
        """Read the tensors of a model's state into new arrays."""
        shapes = state_shapes(self._engine.layout, self._engine.config)
        check_shapes(file, shapes, prefix)
        tensors: dict[str, Any] = {
            name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()
        }
        read_state(file, tensors, prefix)
        return tensors


def _read_list(file: ModelFile, name: str, dtype: np.dtype, least: int, most: int) -> np.ndarray:
    """Read a vector of the fit with `least` to `most` entries."""
    tensor = file.tensors.get(FIT + name)
    size = tensor.shape[0] if tensor is not None and tensor.shape else 0
    check_shapes(file, {name: (dtype, (size,))}, FIT)
    _require(least <= size <= most, f"{name}: expected {least} to {most} entries, got {size}")
    return file.read(FIT + name)


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise ValueError(said)
