"""The attributes of a model (arrays, counters, settings), with their setters, and pickling."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from fastbn.checks import integer
from fastbn.model.buffers import copy_numbers
from fastbn.model.config import ModelConfig
from fastbn.model.engine import FLAT, OF_UNITS, Engine
from fastbn.model.layout import BufferLayout
from fastbn.model.scaling import InputScaling, TargetScaling
from fastbn.model.state import MAX_COUNT

PICKLED = ("config", *FLAT, *OF_UNITS, "scaling", "target_scaling", "steps", "epochs")


class Buffer:
    """A flat array of a model; setting it copies the numbers, and reading it returns a view.

    Kernels rely on the array's memory and size, which therefore never change.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: Any, owner: type | None = None) -> np.ndarray:
        if model is None:
            raise AttributeError(f"{self._name}: expected a model, got its class")
        view: np.ndarray = model._engine.view(self._name)
        return view

    def __set__(self, model: Any, value: Any) -> None:
        copy_numbers(self._name, model._engine.view(self._name), value)


class Attributes:
    """The attributes of `BatchNormMLP`, stored in its engine; layout and dtype cannot be set."""

    _engine: Engine

    params, grads, m, v = Buffer(), Buffer(), Buffer(), Buffer()
    running_mean, running_var = Buffer(), Buffer()

    @property
    def config(self) -> ModelConfig:
        """The arguments of the model."""
        return self._engine.config

    @config.setter
    def config(self, value: ModelConfig) -> None:
        self._engine.config = self.config.replaced_by(value)

    @property
    def layout(self) -> BufferLayout:
        """The places of the tensors in the flat buffers."""
        return self._engine.layout

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the model's numbers."""
        return self._engine.dtype

    @property
    def steps(self) -> int:
        """Number of optimizer steps done."""
        return self._engine.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._engine.counter[0] = integer("steps", value, 0, MAX_COUNT)

    @property
    def epochs(self) -> int:
        """Number of epochs that fits have begun."""
        return self._engine.epochs

    @epochs.setter
    def epochs(self, value: int) -> None:
        self._engine.epochs = integer("epochs", value, 0, MAX_COUNT)

    @property
    def scaling(self) -> InputScaling:
        """The scaling of inputs; another one of the same mode and shapes can be set."""
        return self._engine.scaling

    @scaling.setter
    def scaling(self, value: InputScaling) -> None:
        self._engine.scaling = self.scaling.taking("scaling", value)

    @property
    def target_scaling(self) -> TargetScaling:
        """The scaling of targets; another one of the same mode and shapes can be set."""
        return self._engine.target_scaling

    @target_scaling.setter
    def target_scaling(self, value: TargetScaling) -> None:
        self._engine.target_scaling = self.target_scaling.taking("target_scaling", value)

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and views of `params`: weight (out, in), gamma and beta, or bias (out,)."""
        return self._engine.named_views("params")

    def named_gradients(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and views of `grads`, as `named_parameters` does."""
        return self._engine.named_views("grads")

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_engine"}
        return state | {name: getattr(self, name) for name in PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copy the arrays of a pickle, which may be views of a file or of other memory."""
        state = dict(state)
        self._engine = Engine(state.pop("config"))
        for name, value in state.items():
            if name not in ("layout", "dtype"):  # of earlier versions
                setattr(self, name, value)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)
