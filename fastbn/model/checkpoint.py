"""Checkpoints: model files that also say where a fit is, so that it can go on to the bit."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fastbn.checks import choice, flag, integer, number, shown
from fastbn.errors import ModelFileError
from fastbn.files import model_file
from fastbn.fit.history import STOP_REASONS, FitState, History
from fastbn.fit.loop import Plan, minibatch_bounds
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
    check_shape,
    checked_fitted,
    expected_tensors,
    layout_of,
    read_state,
)

INTEGERS = ("steps", "skipped")  # lists of the history; the others are of float
LISTS = {
    field.name: np.dtype(np.int64 if field.name in INTEGERS else np.float64)
    for field in dataclasses.fields(History)
    if field.name != "stop_reason"
}


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """Return a number that tells data from other data."""
    result = 0
    for array in arrays:
        result = zlib.crc32(array.reshape(-1).view(np.uint8), result)
    return result


def contents(data: Data, inputs: InputScaling, targets: TargetScaling) -> Iterator[np.ndarray]:
    """Yield all of the data as contiguous arrays, whatever the scalings have been fitted on."""
    yield from float64_blocks(data.x) if inputs.is_wide(data.x) else [data.x]
    yield data.labels
    yield from float64_blocks(data.targets) if targets.mode is not None else [data.targets]
    yield data.weight


class OtherDataError(ValueError):
    """A fit cannot go on, since its data are not those that the checkpoint was written for."""


class CheckpointFile:
    """Where a fit of a model keeps its checkpoint, and the one that it goes on with."""

    def __init__(
        self, model: Any, path: str | os.PathLike[str], every: int | None, plan: Plan,
        data: Data, validation: Data | None,
    ) -> None:  # fmt: skip
        """Refuse what could not be written."""
        self.path, self.every = model_file.writable_file(path, "checkpoint"), every
        folder = self.path.parent
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            said = f"checkpoint: cannot write in the folder {folder} ({error.strerror})"
            raise OSError(error.errno, said) from None
        self._model, self._engine, self._plan = model, model._engine, plan
        self._is_float64 = data.x.dtype == np.float64
        self._rows = np.diff(minibatch_bounds(len(data.x), plan.batch_size))
        self._found: tuple[FitState, dict[str, Any], int, dict[str, Any]] | None = None
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
            "data": checksum(contents(data, *scalings)),
            "validation_data": validation and checksum(contents(validation, *scalings)),
        }
        keeps_best = rule is not None and rule.restore_best
        best = self._engine.snapshot() if keeps_best else None
        saving.to_bytes(model, *self._parts(FitState(best_state=best)))

    def write(self, state: FitState) -> None:
        """Write the model and the state of its fit: the whole file, or nothing."""
        saving.write(self._model, self.path, *self._parts(state))

    def _parts(self, state: FitState) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return what a file says of the fit, and the tensors of that."""
        history, best = state.history, state.best_state
        tensors = {f"{FIT}losses": state.losses, f"{FIT}correct": state.correct}
        for name, dtype in LISTS.items():
            tensors[f"{FIT}{name}"] = np.asarray(getattr(history, name), dtype)
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

    def read(
        self, inputs: InputScaling, outputs: TargetScaling
    ) -> tuple[InputScaling, TargetScaling]:
        """Read the checkpoint, if there is one; return its scalings in the place of those given.

        An error where it is damaged, or of another model or fit. The model is left as it is.
        """
        if not self.path.exists():
            return inputs, outputs
        with model_file.open_model(self.path) as file:
            header = Header.from_dict(self.path, file.header)
            layout_of(file, header)
            if header.fit is None:
                raise ValueError(f"checkpoint: {self.path} is a model, and not of a fit")
            config = self._engine.config.to_dict()
            self._same("the model's ", config, header.config.to_dict())
            self._same("", self._facts, header.fit.get("facts"))
            try:
                state = self._state_of(file, header.fit)
                if state.has_begun and header.epochs < 1:
                    raise ValueError("epochs: expected at least 1, got 0")
            except (KeyError, TypeError, ValueError) as error:
                raise ModelFileError(f"{self.path}: fit: {error}") from error
            tensors = self._tensors_of(file)
            if state.best_state is not None:
                state.best_state.update(self._tensors_of(file, BEST))
        counts = {
            "steps": header.steps,
            "input_is_fitted": header.input_is_fitted,
            "target_is_fitted": header.target_is_fitted,
        }
        # an epoch that has begun has drawn its order, and draws the same one again
        epochs = header.epochs - state.has_begun
        self._found = state, {**tensors, **counts}, epochs, header.metadata
        center, scale = tensors["input.center"], tensors["input.scale"]
        inputs = dataclasses.replace(inputs, center=center, scale=scale)
        if outputs.mode is not None:
            center, scale = tensors["target.center"], tensors["target.scale"]
            outputs = dataclasses.replace(outputs, center=center, scale=scale)
        return inputs, outputs

    def counts(self) -> tuple[int, int]:
        """Return steps and epochs of the model at the start of the fit."""
        if self._found is None:
            return self._engine.steps, self._engine.epochs
        state, snapshot, epochs, _ = self._found
        history = state.history
        taken = history.epochs * self._rows.size + state.losses.size - len(history.skipped)
        return snapshot["steps"] - taken, epochs - history.epochs

    def apply(self) -> FitState:
        """Bring the model to where the checkpoint is, and return where its fit is."""
        if self._found is None:
            return FitState()
        state, snapshot, epochs, metadata = self._found
        self._found = None
        self._engine.restore(snapshot)
        self._engine.epochs, self._model.metadata = epochs, metadata
        return state

    def _same(self, whose: str, now: dict[str, Any], then: Any) -> None:
        """Refuse to go on with something else than what the checkpoint is of."""
        if not isinstance(then, dict):
            raise ModelFileError(f"{self.path}: fit: expected what it is of, got {then!r:.80}")
        for name, value in now.items():
            if then.get(name) != value:
                if name in ("data", "validation_data"):  # checksums
                    if None in (value, then.get(name)):
                        had, has = (
                            "none" if x is None else "some" for x in (then.get(name), value)
                        )
                        raise ValueError(
                            f"resume: expected {name} as in {self.path}, {had}, got {has}"
                        )
                    raise OtherDataError(self._other_data(name))
                raise ValueError(
                    f"resume: expected {whose}{name} as in {self.path}, {then.get(name)!r:.80}, "
                    f"got {value!r:.80}"
                )

    def _other_data(self, name: str) -> str:
        """Return what is wrong where a checksum of data differs."""
        said = (
            f"resume: expected {name} as in {self.path}, got others: they are not those that the "
            "checkpoint was written for, or their rows or columns are in another order"
        )
        config = self._engine.config
        if self._is_float64 and config.dtype == "float32" and config.input_normalization:
            said += (
                "; a checkpoint that an earlier version of fastbn wrote goes on with "
                "X.astype(np.float32)"
            )
        return said

    def _state_of(self, file: model_file.ModelFile, fit: dict[str, Any]) -> FitState:
        """Check where a fit is; any error where no fit of this plan can be there."""
        history = self._history_of(file, fit)
        losses = self._list_of(file, "losses", np.dtype(np.float64), most=self._rows.size - 1)
        correct = self._list_of(file, "correct", np.dtype(np.int64), losses.size, losses.size)
        state = FitState(
            history=history,
            losses=losses,
            correct=correct,
            has_begun=flag("has_begun", fit["has_begun"]),
            best=fit["best"],
            since=integer("since", fit["since"], 0),
            best_state=fit["best_counts"],
            seconds=number("seconds", fit["seconds"], 0.0),
            is_over=flag("is_over", fit["is_over"]),
        )
        if np.isinf(losses).any():  # of a step that was left out it is NaN
            raise ValueError("losses: expected finite ones, got others")
        if ((correct < -1) | (correct > self._rows[: losses.size])).any():
            raise ValueError("correct: expected hits of the steps, got others")
        if type(state.best) is not float or math.isnan(state.best):
            raise TypeError(f"best: expected a number, got {state.best!r:.80}")
        if state.best_state is not None:
            counts = {"target_is_fitted": True} | state.best_state  # of before there was one
            state.best_state = {
                "steps": integer("best_counts.steps", counts["steps"], 0, MAX_COUNT),
                **checked_fitted("best_counts.{}", counts, self._engine.config),
            }
        known = {f"{FIT}{name}" for name in ("losses", "correct", *LISTS)}
        if state.best_state is not None:
            known |= {BEST + name for name in file.tensors}
        odd = {name for name in file.tensors if name.startswith((FIT, BEST))} - known
        if odd:
            raise ValueError(f"expected no tensors {shown(sorted(odd)[:10])}")
        if state.has_begun and state.is_over:
            raise ValueError("has_begun: expected no epoch that has begun in a fit that is over")
        if losses.size > 0 and not state.has_begun:
            raise ValueError("has_begun: expected an epoch that has begun where there are steps")
        if history.epochs >= self._plan.epochs + state.is_over:
            raise ValueError(f"loss: expected fewer epochs than {self._plan.epochs} in all")
        return state

    def _history_of(self, file: model_file.ModelFile, fit: dict[str, Any]) -> History:
        reason = choice("stop_reason", fit["stop_reason"], STOP_REASONS)
        epochs = self._list_of(file, "loss", LISTS["loss"], most=self._plan.epochs).size
        score, is_validated = self._plan.score, self._facts["validation_data"] is not None
        full = {"loss", "lr", "steps", "seconds"} | ({"accuracy"} if score == "accuracy" else set())
        full |= {"val_loss", f"val_{score}"} if is_validated else set()
        lists = {}
        for name, dtype in LISTS.items():
            size = epochs if name in full else 0
            limits = (0, self._plan.epochs * self._rows.size) if name == "skipped" else (size, size)
            lists[name] = self._list_of(file, name, dtype, *limits)
        steps = np.arange(1, epochs + 1) * self._rows.size
        whole = epochs - (reason == "diverged")  # whose last epoch may be a part of one
        if not np.array_equal(lists["steps"][:whole], steps[:whole]):
            raise ValueError("steps: expected those of whole epochs, got others")
        return History(
            **{name: tensor.tolist() for name, tensor in lists.items()}, stop_reason=reason
        )

    def _list_of(
        self, file: model_file.ModelFile, name: str, dtype: np.dtype, least: int = 0,
        most: int = 0,
    ) -> np.ndarray:  # fmt: skip
        """Read a tensor of so many numbers."""
        shape = file.tensors[FIT + name].shape if FIT + name in file.tensors else (least,)
        size = shape[0] if shape else -1
        check_shape(file, FIT + name, dtype, (size,))
        if not least <= size <= most:
            raise ValueError(f"{name}: expected {least} to {most} entries, got {size}")
        return file.read(FIT + name)

    def _tensors_of(self, file: model_file.ModelFile, prefix: str = "") -> dict[str, Any]:
        """Read the tensors of a model's state into memory of their own."""
        tensors = {
            name: tensor for name, tensor in self._engine.snapshot().items() if name not in COUNTS
        }
        expected = expected_tensors(self._engine.layout, self._engine.config)
        for name, (dtype, shape) in expected.items():
            check_shape(file, prefix + name, dtype, shape)
        read_state(file, tensors, prefix)
        return tensors
