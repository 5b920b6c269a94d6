"""The engine of a model: its memory, and the compiled calls that train it and predict with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from fastbn.checks import kernel_input
from fastbn.errors import DivergenceError
from fastbn.fit.history import History
from fastbn.fit.order import shuffled
from fastbn.kernels import network as kernels
from fastbn.kernels.reductions import all_below
from fastbn.model.buffers import aligned_zeros, assign_all
from fastbn.model.config import ModelConfig
from fastbn.model.guard import OneThread
from fastbn.model.inputs import TrainingSamples
from fastbn.model.layout import BufferLayout
from fastbn.model.measures import INFINITY
from fastbn.model.nonfinite_layer import nonfinite_layer
from fastbn.model.packed_weights import PackedWeights
from fastbn.model.recipes import Recipes
from fastbn.model.scaling import InputScaling, TargetScaling, identity
from fastbn.model.state import check_room, check_snapshot, state_places
from fastbn.model.targets import loss_and_score
from fastbn.model.workspaces import Workspaces, prediction_shares
from fastbn.parallel.team_size import TrainingTeam, prediction_threads, training_team
from fastbn.parallel.threads import AWAKE_SECONDS, run_team

T = TypeVar("T")

# Buffers of the size of `params`, and buffers with one number for each unit.
FLAT, OF_UNITS = ("params", "grads", "m", "v"), ("running_mean", "running_var")


class Engine:
    """The memory and the compiled calls of a model; `fastbn.fit.loop` trains it.

    Its arguments have been checked: settings by the model, data by `fastbn.model.inputs`.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Allocate all memory; parameters are zero."""
        self.config = config
        self.dtype = np.dtype(config.dtype)
        self.layout = BufferLayout.of(config)
        self.buffers = {name: aligned_zeros(self.layout.size, self.dtype) for name in FLAT}
        for name in OF_UNITS:
            self.buffers[name] = aligned_zeros(self.layout.units, self.dtype)
        self.buffers["running_var"][...] = 1.0
        self.scaling = InputScaling.unfitted(
            config.input_normalization, config.layer_sizes[0], self.dtype
        )
        self.target_scaling = TargetScaling.unfitted(
            config.target_normalization, config.layer_sizes[-1], self.dtype
        )
        self.counter = np.zeros(1, np.int64)  # optimizer steps, counted by the kernel
        self.epochs = 0
        self.warns_of_mean = True  # False after the first warning (worse_than_mean.py)
        self.workspaces = Workspaces(self.layout, self.dtype)
        self._network = kernels.Network(kernel_input(self.layout.table), **self.buffers)
        network = self._network
        self._trained = network.layers, network.params, network.running_mean, network.running_var
        self.packed = PackedWeights(self.layout, network.params)
        self._recipes = Recipes(config, self.layout)
        self._one_thread = OneThread()
        self._last_prediction = -math.inf  # when it ended
        self._teams: dict[int, TrainingTeam] = {}  # by the number of bits of a minibatch's size

    def initialize(self) -> None:
        """Draw the weights and set gamma to 1."""
        generator = np.random.default_rng(self.config.seed)
        gain = 2.0 / (1.0 + self.config.slope**2)
        for name, view in self.named_views("params"):
            if name.endswith("weight"):
                deviation = np.sqrt(gain / view.shape[1])
                view[...] = generator.standard_normal(view.shape) * deviation
            elif name.endswith("gamma"):
                view[...] = 1.0

    # -- state -------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return int(self.counter[0])

    def view(self, buffer: str) -> np.ndarray:
        """Return a view of a flat buffer. Parameters are written only while such a view exists."""
        view = self.buffers[buffer][:]
        if buffer == "params":
            self.packed.forget()
        return view

    def named_views(self, buffer: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name and the view of every tensor of a flat buffer."""
        return self.layout.named_views(self.view(buffer))

    def state(self) -> dict[str, np.ndarray]:
        """Return views of all numbers that training changes, by name."""
        return self._views(self.scaling, self.target_scaling)

    def _views(self, inputs: InputScaling, targets: TargetScaling) -> dict[str, np.ndarray]:
        buffers = {
            **{name: self.view(name) for name in self.buffers},
            "input.center": inputs.center, "input.scale": inputs.scale,
            "target.center": targets.center, "target.scale": targets.scale,
        }  # fmt: skip
        return {
            name: self.layout.view(buffers[buffer], start, shape)
            for name, buffer, start, shape in state_places(self.layout, self.config)
        }

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the state that `restore` takes."""
        return {
            "steps": self.steps,
            "input_is_fitted": self.scaling.is_fitted,
            "target_is_fitted": self.target_scaling.is_fitted,
            **{name: view.copy() for name, view in self.state().items()},
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot; raises TypeError or ValueError if it is of another model."""
        if isinstance(snapshot, dict):  # earlier versions had no target normalization
            snapshot = {"target_is_fitted": True} | snapshot
        check_snapshot(snapshot, self.state(), self.config)
        self.alone(self._restore, snapshot)

    def _restore(self, snapshot: dict[str, Any]) -> None:
        inputs = self.scaling.copied(snapshot["input_is_fitted"])
        targets = self.target_scaling.copied(snapshot["target_is_fitted"])
        views = self._views(inputs, targets)
        values = {name: np.asarray(snapshot[name], view.dtype) for name, view in views.items()}
        assign_all(
            [(self.buffers[name], ..., 0) for name in ("params", "m", "v")]  # including the gaps
            + [(view, ..., values[name]) for name, view in views.items()]
            + [(self.counter, 0, snapshot["steps"])]
            + [(vars(self), "scaling", inputs), (vars(self), "target_scaling", targets)]
        )

    def begin(self, samples: TrainingSamples) -> None:
        """Adopt the scalings of samples to train on; raise an error if a fitted one differs."""
        inputs, targets = samples.inputs, samples.outputs
        if inputs is self.scaling and targets is self.target_scaling:
            return
        inputs = self.scaling.adopt("samples.inputs", inputs)
        targets = self.target_scaling.adopt("samples.outputs", targets)
        assign_all([(vars(self), "scaling", inputs), (vars(self), "target_scaling", targets)])

    def is_finite(self) -> bool:
        """Return whether all parameters, moments and running statistics are finite."""
        trained = ("params", "m", "v", *OF_UNITS)
        return all(all_below(self.buffers[name], INFINITY[self.dtype]) for name in trained)

    def nonfinite_layer(self, samples: TrainingSamples, rows: np.ndarray) -> str:
        """Name the first layer with non-finite values in a training step on these rows.

        One thread runs the step again, with a limit of 0, so that it is always refused.
        """
        network = self._network._replace(grads=np.zeros_like(self._network.grads))
        recipe = self._settings().recipe(rows.size, 1, samples.arrays.weight.size > 0, 0)
        recipe = recipe._replace(limit=self.dtype.type(0))
        work = self.workspaces.lend_to_training(rows.size, 1)
        plan = rows, np.array([0, rows.size]), np.zeros(1)
        counts = self.counter.copy(), np.zeros(1, np.int64)
        results = np.zeros(1), np.zeros(1, np.int64)
        shared = tuple(map(tuple, (network, recipe, work, samples.arrays)))
        run_team(
            kernels.train_steps, 1,
            lambda member: (*shared, plan, tuple(member), counts, results),
        )  # fmt: skip
        gradients = self.layout.named_views(network.grads)
        layer = nonfinite_layer(self.config, samples.arrays, rows, work, network.layers, gradients)
        self.workspaces.take_back(work)
        return layer

    # -- compiled calls ----------------------------------------------------------------------------

    def alone(self, work: Callable[..., T], *args: Any) -> T:
        """Call `work` while no other thread can train the model; callbacks of a fit can."""
        return self._one_thread.run(work, *args)

    def order_of(self, epoch: int, n_samples: int, shuffle: bool) -> np.ndarray:
        """Return the order of the samples in an epoch; it depends only on seed and epoch."""
        return shuffled(n_samples, self.config.seed, epoch) if shuffle else np.arange(n_samples)

    def run_steps(
        self, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
        logs: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Take steps like `take_steps`, but raise DivergenceError if one is refused."""
        losses, correct = self.take_steps(samples, order, bounds, lrs, logs=logs)
        if math.isnan(losses[-1]):  # the first refused step is the last one
            last = losses.size
            layer = self.nonfinite_layer(samples, order[bounds[last - 1] : bounds[last]])
            raise DivergenceError(last, layer, History())
        return losses, correct

    def take_steps(
        self, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
        most_refused: int = 0, refused: int = 0, logs: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Train on minibatches ``order[bounds[s]:bounds[s + 1]]``; return losses and hits of each.

        The loss of a refused step is NaN. Training stops after more than `most_refused` consecutive
        refused steps, including the `refused` ones right before this call. `logs` has one entry for
        each thread: an array for the times of its work (`fastbn.profiling`), or None. Its length
        sets the number of threads.
        """
        return self.alone(
            self._call_kernel, samples, order, bounds, lrs, most_refused, refused, logs
        )

    def _call_kernel(
        self, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
        most_refused: int, refused: int, logs: Sequence[np.ndarray | None] | None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Run the kernel, which updates the model and its step counter.

        Python code could not update both: a signal handler may raise after any of its lines.
        """
        check_room("steps", self.steps, lrs.size)
        losses, correct = np.zeros(lrs.size), np.empty(lrs.size, np.int64)
        correct.fill(-1)
        counts = self.counter, np.array([refused])
        rows = int(bounds[1] - bounds[0] if lrs.size == 1 else np.diff(bounds).max())
        choice = None
        if logs is None:
            size, choice = self._team_for(rows).size(lrs.size)
        else:
            size = len(logs)
        written = self.view("params")  # which also frees packed weights
        work = self.workspaces.lend_to_training(rows, size)
        self.begin(samples)
        has_weights = samples.arrays.weight.size > 0
        recipe = self._settings().recipe(rows, size, has_weights, most_refused)
        shared = tuple(map(tuple, (self._network, recipe, work, samples.arrays)))
        start = time.perf_counter()
        try:
            run_team(
                kernels.train_steps, size,
                lambda member: (
                    *shared, (order, bounds, lrs),
                    tuple(member if logs is None else member._replace(log=logs[member.rank])),
                    counts, (losses, correct),
                ),
            )  # fmt: skip
        finally:
            del written  # which a kept exception would keep
        reached = lrs.size if correct[-1] >= 0 else int(np.count_nonzero(correct >= 0))
        if choice is not None and reached == lrs.size:
            choice.learn(size > 1, lrs.size, time.perf_counter() - start)
        self.workspaces.take_back(work)
        return losses[:reached], correct[:reached]

    def _team_for(self, rows: int) -> TrainingTeam:
        """Return the team for minibatches of this size, rounded up to a power of two."""
        bits = rows.bit_length()
        if bits not in self._teams:
            self._teams[bits] = training_team(self.layout.team_work(rows, self.dtype))
        return self._teams[bits]

    def logits(
        self, x: np.ndarray, center: np.ndarray, scale: np.ndarray, rows: int | None = None
    ) -> np.ndarray:
        """Return outputs before softmax or sigmoid, (samples, outputs), with running statistics.

        The first arguments are what `InputScaling.apply` returns. With `rows`, one thread predicts
        this many samples at a time (`fastbn.profiling`).
        """
        is_ready = center is identity(self.layout.inputs, self.dtype)[0] and x.dtype is self.dtype
        inputs = x, center, scale, is_ready
        kept = self.packed.kept
        panels = self.packed.panels()
        logits = self._infer(inputs, panels, rows)
        if panels is not None and self.packed.kept is not kept:
            logits = self._infer(inputs, None, rows)  # the parameters may have changed meanwhile
        return logits

    def _infer(
        self, inputs: tuple[np.ndarray, np.ndarray, np.ndarray, bool], panels: np.ndarray | None,
        rows: int | None,
    ) -> np.ndarray:  # fmt: skip
        """Return the logits. Without panels, the same compiled call packs the weights."""
        n = len(inputs[0])
        logits = np.empty((n, self.config.layer_sizes[-1]), self.dtype)
        teams = members = 1
        if rows is None:
            is_next = time.perf_counter() - self._last_prediction < AWAKE_SECONDS
            threads = prediction_threads(self.layout.prediction_flops(n), is_next)
            teams, members, rows = prediction_shares(self.layout, n, threads)
        spaces = [self.workspaces.lend_to_prediction(rows) for _ in range(teams)]
        packed = self.packed.empty() if panels is None else panels
        predictor = *self._trained, *self._settings().for_predictions, packed
        run_team(
            kernels.infer_logits, teams * members,
            lambda member: (
                predictor, tuple(spaces[member.rank // members]), inputs, rows, members > 1,
                panels is None, tuple(member), logits,
            ),
        )  # fmt: skip
        self.workspaces.take_back_all(spaces)
        self._last_prediction = time.perf_counter()
        return logits

    def evaluate(self, samples: kernels.Samples) -> tuple[float, float]:
        """Return loss and score on some samples, with running statistics."""
        logits = self.logits(samples.x, samples.center, samples.scale)
        return loss_and_score(logits, samples.labels, samples.targets, self.config)

    def _settings(self) -> Recipes:
        """Return the recipes of the present config."""
        if self._recipes.config is not self.config:
            self._recipes = Recipes(self.config, self.layout)
        return self._recipes
