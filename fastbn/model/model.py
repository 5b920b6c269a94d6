"""The slim model: it holds parameters and statistics, and calls the kernels."""

from __future__ import annotations

import copy
import functools
import importlib
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from fastbn.checks import flag, integer, kernel_input, number, pair, shown, weights_array
from fastbn.files import model_file
from fastbn.fit.loop import (
    Callback,
    EarlyStopping,
    History,
    Plan,
    early_stopping_rule,
    minibatch_bounds,
    train,
)
from fastbn.fit.schedules import Schedule
from fastbn.kernels import network as kernels
from fastbn.model.buffers import Buffer, aligned_zeros, assign_all
from fastbn.model.checkpoint import CheckpointFile
from fastbn.model.config import ARCHITECTURE, CURVES, LOSSES, OPTIMIZERS, ModelConfig
from fastbn.model.inputs import Data, TrainingSamples, feature_matrix
from fastbn.model.layout import Layout
from fastbn.model.measures import ROUNDINGS, moments
from fastbn.model.memory import COMPARED_ROWS, peak_bytes
from fastbn.model.minibatches import check_samples, minibatches
from fastbn.model.nonfinite_layer import culprit
from fastbn.model.scaling import InputScaling, Scaling, TargetScaling
from fastbn.model.state import (
    MAX_COUNT,
    Header,
    check_room,
    check_snapshot,
    layout_of,
    odd_numbers,
    read_state,
    state_views,
)
from fastbn.model.targets import decisions, loss_and_score, to_probabilities, wanted
from fastbn.model.workspaces import INFERENCE_ROWS, Workspaces
from fastbn.parallel.cores import available_threads
from fastbn.parallel.team_size import TrainingTeam, team_size
from fastbn.parallel.threads import run_team

T = TypeVar("T")

# Of `params`, `grads`, `m`, `v` as long as they are, and of one number for each unit.
FLAT, OF_UNITS = ("params", "grads", "m", "v"), ("running_mean", "running_var")

# Attributes that are made anew in a copy.
SCRATCH = (
    "_dtype", "_layout", "_table", "_buffers", "_counter", "_config", "_scaling",
    "_target_scaling", "_epochs", "_workspaces", "_callers", "_teams", "_warns_of_mean",
)  # fmt: skip


def _torch_edge() -> Any:
    """Return the edge that knows PyTorch: looked up when it is asked for, and never imported."""
    return importlib.import_module("fastbn.torch")


class BatchNormMLP:
    """Multilayer perceptron with batch normalization, trained by compiled kernels.

    Parameters
    ----------
    layer_sizes : sequence of int
        Inputs, hidden layers, classes or outputs.
    activation : "leaky_relu", "relu", "identity", "tanh" or "logistic"
        Of the hidden layers.
    negative_slope : float
        Of LeakyReLU.
    batch_norm : bool
        Without it every layer has a bias instead.
    batch_norm_output : bool
        Normalize the output layer too, where the loss is softmax cross-entropy.
    eps, momentum : float
        Batch norm's; `momentum` is the weight of the new batch in the running statistics.
    unbiased : bool
        Running variances are those of ``n - 1``, as in PyTorch, or of ``n``, as in Keras.
    weighted : bool
        Sample weights count in the statistics of batches and inputs, too, and not in the loss
        alone: a weight of two is the same as the sample twice. A few heavy samples, of a rare class
        with a large weight for example, then decide mean and variance of their minibatches: the
        statistics change from one minibatch to the next, the running ones fit none of them, and
        predictions may be useless. Leave it False for such weights.
    gradient : "exact" or "detached"
        "detached" takes mean and variance as constants in the backward pass.
    input_normalization : None, "zscore" or "minmax"
        Fitted on the first training data that the model sees, without rows of weight 0, and stored
        with it. Data of another dtype than the model's, but bytes, are scaled in float64 before
        they are rounded: features far from zero, as dates are, keep their digits.
    target_normalization : None or "zscore"
        With the squared error: the network learns targets of mean 0 and deviation 1 for each
        output, and `predict` returns to their units. Fitted on the first training targets, in
        float64, without rows of weight 0, and stored with the model. Losses are those of the
        normalized targets.
    loss : "softmax_cross_entropy", "sigmoid_cross_entropy" or "squared_error"
        Of one class in several, of several yes-or-no outputs, or of numbers. A sample's loss is the
        sum over its outputs, for numbers of half the squared errors.
    label_smoothing : float
        Of both cross-entropies: the part of a target that is spread evenly.
    optimizer : "adam", "adamw", "sgd" or "rmsprop"
    lr : float
    betas : pair of float
        Of Adam; SGD's momentum is ``betas[0]`` and RMSprop's smoothing is ``betas[1]``.
    optimizer_eps, weight_decay : float
    nesterov : bool
        Of SGD's momentum.
    decay_vectors : bool
        Let weight decay act on gamma, beta and biases, as well as on weights.
    max_norm : float, optional
        Scale the gradient down to this global norm where it is larger.
    dropout : float
        Probability of dropping a hidden activation in training.
    dtype : "float32" or "float64"
    seed : int
        Of the initial weights, the shuffling and dropout. The same seed gives the same bits.

    Attributes
    ----------
    config : ModelConfig
        One of the same architecture may take its place, with another learning rate, say.
    params, grads, m, v : arrays (K,)
        Parameters, gradients and both moments as flat buffers; `named_parameters` gives views.
        They are edited in place; setting one copies the numbers of an array of its shape and dtype.
    running_mean, running_var : arrays (units,)
        Running statistics of all layers, one after the other; edited and set in the same way.
    steps, epochs : int
        Optimizer steps done, and epochs that fits have begun.
    metadata : dict
        Notes of your own, of what JSON can hold, that `save` stores with the model.

    Notes
    -----
    Ioffe & Szegedy 2015 (arXiv 1502.03167). Weights start normal with the deviation of He et al.
    2015 (arXiv 1502.01852, eq. 15); biases and beta at 0, gamma at 1.
    """

    def __init__(
        self,
        layer_sizes: Iterable[int] = (784, 32, 10),
        *,
        activation: str = "leaky_relu",
        negative_slope: float = 0.01,
        batch_norm: bool = True,
        batch_norm_output: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        unbiased: bool = True,
        weighted: bool = False,
        gradient: str = "exact",
        input_normalization: str | None = None,
        target_normalization: str | None = None,
        loss: str = "softmax_cross_entropy",
        label_smoothing: float = 0.0,
        optimizer: str = "adam",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        optimizer_eps: float = 1e-8,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay_vectors: bool = True,
        max_norm: float | None = None,
        dropout: float = 0.0,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k != "self"}
        config = ModelConfig(**arguments)
        try:
            self._build(config)
            self._initialize()
        except MemoryError as error:
            sizes = shown(config.layer_sizes)
            raise ValueError(
                f"layer_sizes: expected a network that fits memory, got {sizes}"
            ) from error

    def _build(self, config: ModelConfig) -> None:
        """Allocate everything; parameters are left at zero."""
        self._config = config
        self._dtype = np.dtype(config.dtype)
        self._layout = Layout.of(config)
        self._table = kernel_input(self._layout.table)
        self._buffers = {name: aligned_zeros(self._layout.size, self._dtype) for name in FLAT}
        for name in OF_UNITS:
            self._buffers[name] = aligned_zeros(self._layout.units, self._dtype)
        self._buffers["running_var"][...] = 1.0
        self._scaling = InputScaling.unfitted(
            config.input_normalization, config.layer_sizes[0], self._dtype
        )
        self._target_scaling = TargetScaling.unfitted(
            config.target_normalization, config.layer_sizes[-1], self._dtype
        )
        self._counter = np.zeros(1, np.int64)  # of steps: the kernel counts
        self._epochs = 0
        self.metadata: dict[str, Any] = {}
        self._workspaces = Workspaces(self._layout, self._dtype)
        self._callers: dict[object, tuple[int, threading.Thread]] = {}  # of `_alone`
        self._teams: dict[int, TrainingTeam] = {}  # by bits of the minibatch's rows
        self._warns_of_mean = True  # once

    def _initialize(self) -> None:
        """Draw the weights; gamma becomes 1."""
        generator = np.random.default_rng(self.config.seed)
        gain = 2.0 / (1.0 + self.config.slope**2)
        for name, view in self.named_parameters():
            if name.endswith("weight"):
                deviation = np.sqrt(gain / view.shape[1])
                view[...] = generator.standard_normal(view.shape) * deviation
            elif name.endswith("gamma"):
                view[...] = 1.0

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.config.layer_sizes))
        return f"BatchNormMLP({sizes}, {self.layout.n_parameters:,} parameters, {self.steps} steps)"

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in SCRATCH}
        for name in ("config", *FLAT, *OF_UNITS, "scaling", "target_scaling", "steps", "epochs"):
            state[name] = getattr(self, name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copy what a pickle holds: its arrays may lie in a file, or in memory of somebody else."""
        state = dict(state)
        self._build(state.pop("config"))
        for name, value in state.items():
            if name not in ("layout", "dtype"):  # of earlier versions
                setattr(self, name, value)

    def __copy__(self) -> BatchNormMLP:
        return copy.deepcopy(self)

    # -- what memory and kernels depend on ---------------------------------------------------------

    params, grads, m, v = Buffer(), Buffer(), Buffer(), Buffer()
    running_mean, running_var = Buffer(), Buffer()

    @property
    def config(self) -> ModelConfig:
        """The arguments of the model."""
        return self._config

    @config.setter
    def config(self, value: ModelConfig) -> None:
        if not isinstance(value, ModelConfig):
            raise TypeError(f"config: expected a ModelConfig, got {value!r:.80}")
        for name in ARCHITECTURE:
            expected, got = getattr(self._config, name), getattr(value, name)
            if got != expected:
                raise ValueError(f"config.{name}: expected the model's, {expected!r}, got {got!r}")
        self._config = value

    @property
    def layout(self) -> Layout:
        """Where the tensors lie in the flat buffers."""
        return self._layout

    @property
    def dtype(self) -> np.dtype:
        """Of all numbers of the model."""
        return self._dtype

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return int(self._counter[0])

    @steps.setter
    def steps(self, value: int) -> None:
        self._counter[0] = integer("steps", value, 0, MAX_COUNT)

    @property
    def epochs(self) -> int:
        """Passes over the data that fits have begun."""
        return self._epochs

    @epochs.setter
    def epochs(self, value: int) -> None:
        self._epochs = integer("epochs", value, 0, MAX_COUNT)

    @property
    def scaling(self) -> InputScaling:
        """How inputs are scaled; one of the same mode and shapes may take its place."""
        return self._scaling

    @scaling.setter
    def scaling(self, value: InputScaling) -> None:
        self._scaling = self._scaling.taking("scaling", value)

    @property
    def target_scaling(self) -> TargetScaling:
        """How targets are scaled; one of the same mode and shapes may take its place."""
        return self._target_scaling

    @target_scaling.setter
    def target_scaling(self, value: TargetScaling) -> None:
        self._target_scaling = self._target_scaling.taking("target_scaling", value)

    # -- parameters --------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and views of `params`: weight (out, in), gamma and beta, or bias (out,)."""
        return self.layout.named_views(self.params)

    def named_gradients(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield names and views of `grads`, as `named_parameters` does."""
        return self.layout.named_views(self.grads)

    # -- training ----------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int,
        batch_size: int,
        sample_weight: Any = None,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        early_stopping: EarlyStopping | int | None = None,
        schedule: Schedule = None,
        until_accuracy: float | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | str = "auto",
        check_finite: bool = True,
        on_divergence: str = "raise",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
    ) -> History:
        """Train for `epochs` passes over the data, from the present parameters and moments.

        Parameters
        ----------
        X : array (samples, features) of numbers
        y : array
            For softmax cross-entropy integers (samples,), classes from 0 to
            ``layer_sizes[-1] - 1``. For the other losses numbers (samples, outputs), or (samples,)
            for one output; between 0 and 1 for sigmoid cross-entropy.
        epochs, batch_size : int
            The last minibatch may be smaller; one of a single sample joins the one before.
        sample_weight : array (samples,), optional
            Weights of the losses; a minibatch's loss is their weighted mean. Rows of weight 0 do
            not count in the scaling of inputs and targets.
        validation_data : pair (X, y), optional
            Evaluated after every epoch.
        shuffle : bool
            Draw a new order of the samples for every epoch.
        early_stopping : EarlyStopping or int, optional
            An integer is the patience in epochs.
        schedule : None, "cosine", "one-cycle", "step", "exponential" or callable
            Learning rate per step over this fit; a callable gets the step, from 0.
        until_accuracy : float, optional
            Stop after an epoch whose training accuracy is above it.
        callbacks : iterable of callables
            Each is called as ``callback(model, history)`` after an epoch; True stops the fit.
        progress : True, False or "auto"
            A bar on stderr, if there is one; "auto" shows it on a terminal where rich is installed.
        check_finite : bool
            Look for NaN and infinities in X before training.
        on_divergence : "raise", "stop" or "skip"
            When the loss of a minibatch is not finite, or a variance in it, the model goes back to
            before the step that made it so, and the fit ends: with an error, or with a history that
            says "diverged". "skip" leaves that step out instead, ten of them on end at most.
        checkpoint : path, optional
            A file to write the model and the state of the fit to, which `load` takes, too. In
            Python's main thread Ctrl-C and SIGTERM are noticed after some 50 ms of steps, and write
            it a last time.
        checkpoint_every : int, optional
            Steps between two checkpoints; without it one is written after every epoch.
        resume : bool
            Go on with the fit that is in `checkpoint`, if the file is there: the end is the same to
            the bit as if nothing had come between. Arguments and data have to be the same. Of a fit
            that is over, the model and the history come back. Without `resume` the file is
            replaced.

        Returns
        -------
        History
            Ctrl-C ends the fit after some 50 ms of steps, or, where they have to be compiled first,
            after that; the history says "interrupted" then.

        Raises
        ------
        TypeError, ValueError
            An argument is not as described above. Nothing has been changed then.
        DivergenceError
            The loss is no longer finite; it names the step and the layer.
        ModelFileError
            The checkpoint to go on with is damaged.

        Warns
        -----
        UserWarning
            With the squared error: at the end the model predicts its training samples, and is worse
            than the mean of their targets. A model says so once.
        """
        epochs, batch_size = integer("epochs", epochs, 1), self._batch_size(batch_size)
        if until_accuracy is not None:
            until_accuracy = number("until_accuracy", until_accuracy, 0.0, 1.0)
            if self.config.loss == "squared_error":
                raise ValueError(
                    f"until_accuracy: expected None with loss='squared_error', got {until_accuracy}"
                )
        validation = evaluate = None
        if validation_data is not None:
            X_val, y_val = pair("validation_data", validation_data)
            validation = self._labelled(X_val, y_val, "validation_data[0]", "validation_data[1]")
        score = "r2" if self.config.loss == "squared_error" else "accuracy"
        plan = Plan(
            epochs=epochs,
            batch_size=batch_size,
            lr=self.config.lr,
            schedule=schedule,
            shuffle=flag("shuffle", shuffle),
            early_stopping=early_stopping_rule(early_stopping, validation is not None, score),
            until_accuracy=until_accuracy,
            on_divergence=on_divergence,
            score=score,
        )
        if checkpoint_every is not None:
            checkpoint_every = integer("checkpoint_every", checkpoint_every, 1)
        resume = flag("resume", resume)
        if checkpoint is None and (resume or checkpoint_every is not None):
            raise ValueError("checkpoint: expected a path to resume from or to write to, got None")
        data = self._training_data(X, y, sample_weight, flag("check_finite", check_finite))
        inputs, outputs = self._fitted(data)
        file = None
        if checkpoint is not None:
            file = CheckpointFile(self, checkpoint, checkpoint_every, plan, data, validation)
            if resume:
                inputs, outputs = file.read(inputs, outputs)
        steps, epochs_before = (self.steps, self.epochs) if file is None else file.counts()
        n_steps = minibatch_bounds(data.x.shape[0], batch_size).size - 1
        check_room("steps", steps, epochs * n_steps)
        check_room("epochs", epochs_before, epochs)
        samples = TrainingSamples(data.samples(inputs, outputs), inputs, outputs)
        if validation is not None:
            evaluate = functools.partial(self._evaluate, validation.samples(inputs, outputs))
        del data, validation  # what was scaled in float64 need not stay
        weight = samples.arrays.weight
        history = self._alone(
            lambda: train(
                self,
                samples,
                samples.arrays.x.shape[0],
                plan,
                weight=weight if weight.size else None,
                evaluate=evaluate,
                callbacks=callbacks,
                progress=progress,
                checkpoint=file,
            )
        )
        if self._warns_of_mean and history.stop_reason not in ("diverged", "interrupted"):
            words = self.worse_than_mean(samples, "more epochs or another lr")
            if words is not None:
                self._warns_of_mean = False
                warnings.warn(words, stacklevel=2)
        return history

    def fit_bytes(
        self, n_samples: int, batch_size: int, *, x_dtype: Any = None, sample_weight: bool = False,
        validation_samples: int = 0, early_stopping: bool = False, threads: int | None = None,
    ) -> int:  # fmt: skip
        """Return the most memory that `fit` takes, the model's own and without the caller's arrays.

        Parameters
        ----------
        n_samples, batch_size, validation_samples : int
        x_dtype : dtype, optional
            Of X and the validation data, where it is another than the model's: all but bytes are
            copied, and bytes as well once the model's inputs were normalized in float64. What is
            not contiguous is copied as well, and not counted.
        sample_weight, early_stopping : bool
            Whether the fit has weights, and whether it keeps its best parameters.
        threads : int, optional
            As many as there may be, if it is not given.

        Returns
        -------
        int
            Bytes. A fit shorter than some fifty copies of the parameters takes one copy less. A
            checkpoint takes up to two more while it is written.

        Raises
        ------
        TypeError, ValueError
            A size is not an integer, or too small.
        """
        x_dtype = self.dtype if x_dtype is None else np.dtype(x_dtype)
        return peak_bytes(
            self.layout, self.config,
            n_samples=integer("n_samples", n_samples, 1),
            rows=int(np.diff(minibatch_bounds(n_samples, self._batch_size(batch_size))).max()),
            copied=x_dtype not in (self.dtype, np.uint8) or self.scaling.in_dtype() is None,
            weighted=flag("sample_weight", sample_weight),
            validated=integer("validation_samples", validation_samples, 0),
            stops=flag("early_stopping", early_stopping),
            threads=available_threads() if threads is None else integer("threads", threads, 1),
        )  # fmt: skip

    def partial_fit(
        self, X: Any, y: Any, *, batch_size: int | None = None, sample_weight: Any = None
    ) -> BatchNormMLP:
        """Train one pass over (X, y) in the order given, in minibatches or all at once.

        Of data that comes batch by batch, larger than memory: ``for X, y in batches:
        model.partial_fit(X, y)``. Input normalization is fitted on the first of them.
        """
        samples = self.training_samples(X, y, sample_weight)
        n = samples.arrays.x.shape[0]
        size = n if batch_size is None else self._batch_size(batch_size)
        bounds = minibatch_bounds(n, size)
        self._run_steps(samples, np.arange(n), bounds, np.full(bounds.size - 1, self.config.lr))
        return self

    def train_step(self, X: Any, y: Any, *, sample_weight: Any = None) -> float:
        """Take one optimizer step on the minibatch (X, y) and return its loss before the step."""
        samples = self.training_samples(X, y, sample_weight)
        n = samples.arrays.x.shape[0]
        losses, _ = self._run_steps(
            samples, np.arange(n), np.array([0, n]), np.array([self.config.lr])
        )
        return float(losses[0])

    def run_steps(
        self, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train on minibatches ``order[bounds[s]:bounds[s + 1]]``: losses and hits of each.

        TypeError or ValueError where the samples are not those of `training_samples`, or the others
        do not say which of them to take.
        """
        check_samples(samples, self._config, self._scaling, self._target_scaling)
        return self._run_steps(samples, *minibatches(order, bounds, lrs, len(samples.arrays.x)))

    def _run_steps(
        self, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
        logs: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Train on minibatches that have been checked.

        `logs` has an array for each thread to note when it does what (`fastbn.profiling`), or None,
        and decides how many threads there are.
        """
        return self._alone(
            lambda: self._call_kernel(samples, order, bounds, lrs, logs, self._network(), True)
        )

    def _call_kernel(
        self, samples: TrainingSamples, order: np.ndarray, bounds: np.ndarray, lrs: np.ndarray,
        logs: Sequence[np.ndarray | None] | None, network: kernels.Network, learns: bool,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Run the kernel; a network that does not learn only takes running statistics.

        A handler of a signal may raise after any line: the state of the model is the kernel's work
        alone, the count of its steps included.
        """
        check_room("steps", self.steps, lrs.size * learns)
        losses, correct = np.zeros(lrs.size), np.full(lrs.size, -1)
        rows = int(np.diff(bounds).max())
        team = self._team_for(rows)
        size = team.size(lrs.size) if logs is None else len(logs)
        work = self._workspaces.lend_to_training(rows, size)
        self.begin(samples)
        recipe = self._recipe(rows, size, samples.arrays.weight.size > 0, learns)
        start = time.perf_counter()
        run_team(
            kernels.train_steps, size,
            lambda member: (
                network, recipe, work, samples.arrays, order, bounds, lrs, self._counter,
                member if logs is None else member._replace(log=logs[member.rank]),
                losses, correct,
            ),
        )  # fmt: skip
        if logs is None and learns:
            team.learn(size, lrs.size, time.perf_counter() - start)
        self._workspaces.take_back(work)
        return losses, correct

    def next_loss(self, samples: TrainingSamples, rows: np.ndarray) -> float:
        """Loss of the next training step if it were on some rows; the model is left as it is."""
        network = self._network()
        network = network._replace(
            running_mean=network.running_mean.copy(), running_var=network.running_var.copy()
        )
        bounds = np.array([0, rows.size])
        losses, _ = self._alone(
            lambda: self._call_kernel(samples, rows, bounds, np.zeros(1), None, network, False)
        )
        return float(losses[0])

    def _alone(self, work: Callable[[], T]) -> T:
        """Call `work` while no other thread may train the model; callbacks of a fit may.

        Each call says that it is there, and the thread that came first goes on: there is no moment
        between a look and an entry. A handler of a signal may raise after any call: leaving is one
        call of C code. Entries of before a fork do not count in the child: it may not have their
        threads.
        """
        process, thread, entry = os.getpid(), threading.current_thread(), object()
        try:
            self._callers[entry] = process, thread
            entries = list(self._callers.values())  # one call: others may come meanwhile
            callers = [caller for number, caller in entries if number == process]
            if callers[0] is not thread:
                raise RuntimeError("this model is being trained by another thread")
            return work()
        finally:
            self._callers.pop(entry, None)

    def _team_for(self, rows: int) -> TrainingTeam:
        """What is known of minibatches of about so many rows: up to the next power of two."""
        size = rows.bit_length()
        if size not in self._teams:
            layout = self.layout
            self._teams[size] = TrainingTeam(layout.gemm_flops(rows), layout.barriers(rows))
        return self._teams[size]

    def order_of(self, epoch: int, n_samples: int, shuffle: bool) -> np.ndarray:
        """Return the order of the samples in an epoch; it depends on seed and epoch alone."""
        generator = np.random.default_rng([self.config.seed, epoch])
        return generator.permutation(n_samples) if shuffle else np.arange(n_samples)

    # -- inference ---------------------------------------------------------------------------------

    def predict_logits(self, X: Any) -> np.ndarray:
        """Outputs before softmax or sigmoid, (samples, outputs), with the running statistics.

        They are those of the network itself: with `target_normalization` in normalized units.
        """
        self._require_scaling(self.scaling, "input_normalization")
        x, center, scale = self.scaling.apply("X", self._features("X", X), True)
        targets = np.empty((0, self.config.layer_sizes[-1]), self.dtype)
        none = np.empty(0, np.int64), targets, np.empty(0, self.dtype)
        return self._logits(kernels.Samples(x, *none, center, scale))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, or with sigmoid cross-entropy of each output.

        (samples, outputs); ValueError where the loss is the squared error.
        """
        probabilities = self.predict_logits(X)
        to_probabilities(probabilities, self.config)
        return probabilities

    def predict(self, X: Any) -> np.ndarray:
        """What the network says of each sample.

        The most probable class, (samples,) int64. With sigmoid cross-entropy 1 where an output is
        more probable than not, else 0, (samples, outputs) int64. With the squared error the
        outputs, (samples, outputs): with `target_normalization` in the units of the targets and
        float64, which holds what the model's dtype may not, such as dates.
        """
        self._require_scaling(self.target_scaling, "target_normalization")
        logits = self.predict_logits(X)
        if self.target_scaling.mode is not None:
            return self.target_scaling.undo(logits)
        return decisions(logits, self.config)

    def evaluate(self, X: Any, y: Any) -> tuple[float, float]:
        """Mean loss on (X, y) and accuracy, or for the squared error R2, as when predicting.

        With sigmoid cross-entropy a sample is right where all of its outputs are. R2 is 1 less the
        squared errors over those of the targets' means, the mean over the outputs. With
        `target_normalization` y is in the units of the targets, and the loss, as in training, that
        of normalized ones.
        """
        self._require_scaling(self.scaling, "input_normalization")
        self._require_scaling(self.target_scaling, "target_normalization")
        return self._evaluate(self._labelled(X, y).samples(self.scaling, self.target_scaling))

    # -- files -------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str] | model_file.Writable) -> None:
        """Write everything to a safetensors file.

        Parameters, moments, running statistics, input scaling, counters and configuration: a loaded
        model predicts the same bits and goes on training from the same point.

        Parameters
        ----------
        path : path or binary file
            At a path the file is written as a whole, or, where anything fails, stays as it was. To
            an object with ``write(bytes)``, such as `io.BytesIO` or a gzip or network stream, what
            is written before a failure is written; the model is checked before that.

        Raises
        ------
        TypeError, ValueError, OSError
            `path` is neither, or cannot be written, or no file can hold the model, as where a
            number is not finite.
        """
        self.write(path)

    def write(
        self, path: str | os.PathLike[str] | model_file.Writable,
        fit: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        """Write a model file; with a fit and its tensors it is a checkpoint."""
        target = model_file.destination(path)
        model_file.write_to(target, self.to_bytes(fit, tensors))

    def to_bytes(
        self, fit: dict[str, Any] | None = None, tensors: dict[str, np.ndarray] | None = None
    ) -> bytes:
        """Return what a model file holds; TypeError or ValueError where none can hold it."""
        state = self._state()
        for name, tensor in state.items():
            odd = odd_numbers(name, tensor)
            if odd is not None:
                raise ValueError(f"the model is not written: {odd}")
        header = Header(
            self.config, self.steps, self.epochs, self.scaling.is_fitted,
            self.target_scaling.is_fitted, self.metadata, fit,
        )  # fmt: skip
        return model_file.model_bytes({**state, **(tensors or {})}, header.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str] | model_file.Readable) -> BatchNormMLP:
        """Return the model that `save` wrote, or `fit` as a checkpoint.

        Parameters
        ----------
        path : path or binary file
            An object with ``read(size)``, such as `io.BytesIO` or a gzip or network stream, is read
            from where it is to its end, without seeking. Bytes go into an `io.BytesIO` first.

        Raises
        ------
        ModelFileError
            The file is not one, or says what no model can be: it is checked before memory is asked
            for, and nothing in it is executed.
        TypeError
            `path` is neither.
        """
        with model_file.open_model(path) as file:
            header = Header.from_dict(file.path, file.header)
            layout_of(file, header)
            model = cls.__new__(cls)
            model._build(header.config)
            read_state(file, model._state())
        model.steps, model.epochs, model.metadata = header.steps, header.epochs, header.metadata
        model._scaling = model._scaling.copied(header.input_is_fitted)
        model._target_scaling = model._target_scaling.copied(header.target_is_fitted)
        return model

    def to_torch(self) -> tuple[Any, Any]:
        """Return the layers as a `torch.nn.Sequential`, and the optimizer with its state.

        `fastbn.torch.to_torch` tells more; needs PyTorch.
        """
        result: tuple[Any, Any] = _torch_edge().to_torch(self)
        return result

    @classmethod
    def from_torch(cls, module: Any, optimizer: Any = None, **options: Any) -> BatchNormMLP:
        """Return the model that a `torch.nn.Sequential` is, with the state of its optimizer.

        `fastbn.torch.from_torch` tells more; needs PyTorch.
        """
        model: BatchNormMLP = _torch_edge().from_torch(module, optimizer, **options)
        return model

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the trained state that `restore` takes."""
        return {
            "steps": self.steps,
            "input_is_fitted": self.scaling.is_fitted,
            "target_is_fitted": self.target_scaling.is_fitted,
            **{name: view.copy() for name, view in self._state().items()},
        }

    def begin(self, samples: TrainingSamples) -> None:
        """Take over the scalings of inputs and targets that samples to train on come with."""
        if self._scaling.is_fitted and self._target_scaling.is_fitted:
            return
        inputs = self._scaling.adopt("samples.inputs", samples.inputs)
        targets = self._target_scaling.adopt("samples.outputs", samples.outputs)
        assign_all(self._with_scalings(inputs, targets))

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot of this model; TypeError or ValueError where it is of another.

        RuntimeError while another thread trains it.
        """
        if isinstance(snapshot, dict):  # of a version without target normalizations
            snapshot = {"target_is_fitted": True} | snapshot
        check_snapshot(snapshot, self._state(), self._config)
        self._alone(lambda: self._restore(snapshot))

    def _restore(self, snapshot: dict[str, Any]) -> None:
        inputs = self._scaling.copied(snapshot["input_is_fitted"])
        targets = self._target_scaling.copied(snapshot["target_is_fitted"])
        views = self._views(inputs, targets)
        values = {name: np.asarray(snapshot[name], view.dtype) for name, view in views.items()}
        assign_all(
            [(self._buffers[name], ..., 0) for name in ("params", "m", "v")]  # the gaps, too
            + [(view, ..., values[name]) for name, view in views.items()]
            + [(self._counter, 0, snapshot["steps"])]
            + self._with_scalings(inputs, targets)
        )

    def _with_scalings(
        self, inputs: InputScaling, targets: TargetScaling
    ) -> list[tuple[Any, Any, Any]]:
        """Return what `assign_all` is to do, so that the model has these scalings."""
        return [(vars(self), "_scaling", inputs), (vars(self), "_target_scaling", targets)]

    def is_finite(self) -> bool:
        """Tell whether all parameters, moments and running statistics are numbers."""
        trained = ("params", "m", "v", *OF_UNITS)
        return all(bool(np.isfinite(self._buffers[name]).all()) for name in trained)

    def culprit(self, samples: TrainingSamples, rows: np.ndarray) -> str:
        """Name the first layer whose numbers are not finite on some samples; "loss" if none is."""
        name = culprit(self.config, dict(self.named_parameters()), samples.arrays, rows)
        if name != "loss":
            return name
        odd = (tensor for tensor, view in self._state().items() if not np.isfinite(view).all())
        parts = next(odd, name).removeprefix("optimizer.").removeprefix("m.").removeprefix("v.")
        return ".".join(parts.split(".")[:2])

    def _state(self) -> dict[str, np.ndarray]:
        """Views of all that training changes, by name."""
        return self._views(self._scaling, self._target_scaling)

    def _views(self, inputs: InputScaling, targets: TargetScaling) -> dict[str, np.ndarray]:
        """Views of the model's state, with these scalings in the place of its own."""
        buffers = {
            **self._buffers, "center": inputs.center, "scale": inputs.scale,
            "target_center": targets.center, "target_scale": targets.scale,
        }  # fmt: skip
        return state_views(self._layout, self._config, buffers)

    # -- what the kernels are given ----------------------------------------------------------------

    def _batch_size(self, value: Any) -> int:
        return integer("batch_size", value, 1 + self.config.batch_norm)

    def _features(self, name: str, X: Any, check_finite: bool = True) -> np.ndarray:
        return feature_matrix(name, X, self.config.layer_sizes[0], self.scaling, check_finite)

    def training_samples(
        self, X: Any, y: Any, sample_weight: Any, check_finite: bool = True
    ) -> TrainingSamples:
        """Check the data and scale them; the model is left as it is."""
        data = self._training_data(X, y, sample_weight, check_finite)
        inputs, outputs = self._fitted(data)
        return TrainingSamples(data.samples(inputs, outputs), inputs, outputs)

    def _training_data(self, X: Any, y: Any, sample_weight: Any, check_finite: bool) -> Data:
        x = self._features("X", X, check_finite)
        n = x.shape[0]
        labels, targets = wanted("y", y, n, self.config)
        if n < 1 + self.config.batch_norm:
            raise ValueError(f"X: expected more samples to train on, got shape {x.shape}")
        weight = np.empty(0, self.dtype)
        if sample_weight is not None:
            weight = weights_array("sample_weight", sample_weight, n, self.dtype)
        return Data(x, labels, targets, weight, check_finite)

    def _fitted(self, data: Data) -> tuple[InputScaling, TargetScaling]:
        """Return the scalings of inputs and targets, measured on data if they have seen none."""
        weight, rows = None, None
        if data.weight.size:
            weight = data.weight if self.config.weighted else None
            rows = None if data.weight.all() else np.flatnonzero(data.weight)  # others are none
        inputs = self.scaling.fit(data.x, weight, rows)
        return inputs, self.target_scaling.fit(data.targets, weight, rows)

    def _labelled(self, X: Any, y: Any, x_name: str = "X", y_name: str = "y") -> Data:
        """Check data to evaluate on: features, and labels or targets."""
        x = self._features(x_name, X)
        if x.shape[0] == 0:
            raise ValueError(f"{x_name}: expected at least one sample, got none")
        labels, targets = wanted(y_name, y, x.shape[0], self.config)
        none = np.empty(0, self.dtype)
        return Data(x, labels, targets, none, x_name=x_name, y_name=y_name)

    def _evaluate(self, samples: kernels.Samples) -> tuple[float, float]:
        logits = self._logits(samples)
        return loss_and_score(logits, samples.labels, samples.targets, self.config)

    @staticmethod
    def _require_scaling(scaling: Scaling, argument: str) -> None:
        if not scaling.is_fitted:
            raise ValueError(f"{argument}={scaling.mode!r} has seen no data yet: train first")

    def _logits(self, samples: kernels.Samples) -> np.ndarray:
        x, outputs = samples.x, self.config.layer_sizes[-1]
        logits = np.empty((x.shape[0], outputs), self.dtype)
        network, recipe = self._network(), self._recipe(0, 1)
        size = team_size(self.layout.gemm_flops(x.shape[0]) / 3, 1, 1)
        size = max(1, min(size, x.shape[0] // INFERENCE_ROWS))
        rows = min(INFERENCE_ROWS, max(x.shape[0], 1))
        spaces = [self._workspaces.lend_to_prediction(rows) for _ in range(size)]
        run_team(
            kernels.infer_logits, size,
            lambda member: (
                network, recipe, spaces[member.rank], samples, INFERENCE_ROWS, member, logits
            ),
        )  # fmt: skip
        self._workspaces.take_back_all(spaces)
        return logits

    def worse_than_mean(self, training: TrainingSamples, remedy: str) -> str | None:
        """Say so where predictions of the samples are worse than the mean of their targets.

        Losses of training do not tell: predictions go by the running statistics. None where the
        model is as good as the mean to a tenth, as one that is fitted to noise, or its loss is one
        of classes. No constant target is met exactly: an error of 1, or of a hundredth of it, is as
        good as the mean.
        """
        config, samples = self.config, training.arrays
        if config.loss != "squared_error":
            return None
        weight = samples.weight if samples.weight.size else np.ones(len(samples.x), self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            center, deviation = moments(samples.targets, weight, None)
            of_mean = float(np.square(deviation).sum()) / 2
            rounding = ROUNDINGS * np.finfo(self.dtype).eps
            is_constant = deviation <= rounding * np.abs(center)
            if config.target_normalization is not None:
                center = np.abs(training.outputs.undo(center) * training.outputs.scale)
            allowed = np.where(is_constant, np.maximum(1.0, 0.01 * np.abs(center)), deviation)
            limit = 1.1 * float(np.square(allowed).sum()) / 2
            loss = self._squared_error(samples, weight)
        if loss <= limit:
            return None
        remedies = [
            f"{name}='zscore', "
            for name in ("target_normalization", "input_normalization")
            if getattr(config, name) is None
        ]
        return (
            f"the fit ends worse than the mean of its targets, with a training loss of {loss:.3g} "
            f"where the mean has {of_mean:.3g}: {''.join(remedies)}{remedy} may help"
        )

    def _squared_error(self, samples: kernels.Samples, weight: np.ndarray) -> float:
        """Loss of predictions of the training samples, of some at a time."""
        total = 0.0
        for start in range(0, len(samples.x), COMPARED_ROWS):
            part = slice(start, start + COMPARED_ROWS)
            errors = self._logits(samples._replace(x=samples.x[part])) - samples.targets[part]
            total += float((np.square(errors, dtype=np.float64).sum(axis=1) * weight[part]).sum())
        return total / 2 / float(weight.sum(dtype=np.float64))

    def _network(self) -> kernels.Network:
        return kernels.Network(self._table, **self._buffers)

    def _recipe(
        self, rows: int, members: int, has_weights: bool = False, learns: bool = True
    ) -> kernels.Recipe:
        config, number = self.config, self.dtype.type
        weighted = config.weighted and has_weights
        return kernels.Recipe(
            eps=number(config.eps),
            slope=number(config.slope),
            curve=CURVES.index(config.curve),
            momentum=config.momentum,
            unbiased=config.unbiased,
            weighted=weighted,
            exact=config.gradient == "exact",
            dropout=config.dropout,
            seed=config.seed,
            loss=LOSSES.index(config.loss),
            smoothing=config.label_smoothing,
            optimizer=OPTIMIZERS.index(config.optimizer),
            beta1=config.betas[0],
            beta2=config.betas[1],
            optimizer_eps=config.optimizer_eps,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            decay_vectors=config.decay_vectors,
            max_norm=math.inf if config.max_norm is None else config.max_norm,
            # weights that statistics need have to be there before the first product is used
            keeps_rows=not weighted and self.layout.keeps_rows(rows, members),
            learns=learns,
        )
