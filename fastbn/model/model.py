"""The slim model: its parameters and statistics by name, and calls of the engine that has them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fastbn.checks import flag, integer, shown
from fastbn.files import model_file
from fastbn.fit.history import EarlyStopping, History
from fastbn.fit.loop import Callback
from fastbn.fit.plan import minibatch_bounds
from fastbn.fit.schedules import Schedule
from fastbn.model import fitting, saving
from fastbn.model.buffers import Buffer
from fastbn.model.config import ModelConfig
from fastbn.model.engine import FLAT, OF_UNITS, Engine
from fastbn.model.inputs import kernel_samples, labelled_data, prediction_samples, training_samples
from fastbn.model.layout import Layout
from fastbn.model.memory import peak_bytes
from fastbn.model.scaling import InputScaling, TargetScaling
from fastbn.model.state import MAX_COUNT
from fastbn.model.targets import decisions, to_probabilities
from fastbn.options import (
    Activation,
    DType,
    Gradient,
    InputNormalization,
    Loss,
    OnDivergence,
    Optimizer,
    TargetNormalization,
    document,
)
from fastbn.parallel.cores import available_threads


@document
class BatchNormMLP:
    """Multilayer perceptron with batch normalization, trained by compiled kernels.

    Parameters
    ----------
    layer_sizes : sequence of int
        Inputs, hidden layers, classes or outputs.
    activation : {activation}
        Activation of the hidden layers.
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
        "detached" treats mean and variance as constants in the backward pass.
    input_normalization : None, "zscore" or "minmax"
        Fitted on the first training data that the model sees, without rows of weight 0, and stored
        with it. Data of another dtype than the model's, but bytes, are scaled in float64 before
        they are rounded: features far from zero, as dates are, keep their digits.
    target_normalization : None or "zscore"
        With the squared error: the network learns targets of mean 0 and deviation 1 for each
        output, and `predict` returns to their units. Fitted on the first training targets, in
        float64, without rows of weight 0, and stored with the model. Losses are those of the
        normalized targets.
    loss : {loss}
        Of one class in several, of several yes-or-no outputs, or of numbers. A sample's loss is the
        sum over its outputs, for numbers of half the squared errors.
    label_smoothing : float
        Of both cross-entropies: the part of a target that is spread evenly.
    optimizer : {optimizer}
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
        activation: Activation = "leaky_relu",
        negative_slope: float = 0.01,
        batch_norm: bool = True,
        batch_norm_output: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
        unbiased: bool = True,
        weighted: bool = False,
        gradient: Gradient = "exact",
        input_normalization: InputNormalization | None = None,
        target_normalization: TargetNormalization | None = None,
        loss: Loss = "softmax_cross_entropy",
        label_smoothing: float = 0.0,
        optimizer: Optimizer = "adam",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        optimizer_eps: float = 1e-8,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decay_vectors: bool = True,
        max_norm: float | None = None,
        dropout: float = 0.0,
        dtype: DType = "float32",
        seed: int = 0,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k != "self"}
        config = ModelConfig(**arguments)
        try:
            self._engine = Engine(config)
            self._engine.initialize()
        except MemoryError as error:
            sizes = shown(config.layer_sizes)
            raise ValueError(
                f"layer_sizes: expected a network that fits memory, got {sizes}"
            ) from error
        self.metadata: dict[str, Any] = {}

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.config.layer_sizes))
        return f"BatchNormMLP({sizes}, {self.layout.n_parameters:,} parameters, {self.steps} steps)"

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_engine"}
        for name in ("config", *FLAT, *OF_UNITS, "scaling", "target_scaling", "steps", "epochs"):
            state[name] = getattr(self, name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copy what a pickle holds: its arrays may lie in a file, or in memory of somebody else."""
        state = dict(state)
        self._engine = Engine(state.pop("config"))
        for name, value in state.items():
            if name not in ("layout", "dtype"):  # of earlier versions
                setattr(self, name, value)

    def __copy__(self) -> BatchNormMLP:
        return copy.deepcopy(self)

    # -- attributes --------------------------------------------------------------------------------

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
    def layout(self) -> Layout:
        """Where the tensors lie in the flat buffers."""
        return self._engine.layout

    @property
    def dtype(self) -> np.dtype:
        """Of all numbers of the model."""
        return self._engine.dtype

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return self._engine.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._engine.counter[0] = integer("steps", value, 0, MAX_COUNT)

    @property
    def epochs(self) -> int:
        """Passes over the data that fits have begun."""
        return self._engine.epochs

    @epochs.setter
    def epochs(self, value: int) -> None:
        self._engine.epochs = integer("epochs", value, 0, MAX_COUNT)

    @property
    def scaling(self) -> InputScaling:
        """How inputs are scaled; one of the same mode and shapes may take its place."""
        return self._engine.scaling

    @scaling.setter
    def scaling(self, value: InputScaling) -> None:
        self._engine.scaling = self.scaling.taking("scaling", value)

    @property
    def target_scaling(self) -> TargetScaling:
        """How targets are scaled; one of the same mode and shapes may take its place."""
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
        on_divergence: OnDivergence = "raise",
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
            A step whose loss, a variance or gradient is not finite is refused: parameters, moments,
            running statistics and the number of steps are those before it. The fit then ends with
            an error, or with a history that says "diverged"; "skip" goes on with the next
            minibatch, and gives up with an error after ten refused steps in a row. An update that
            is finite, but ruins the parameters, is not undone: the next step is refused.
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
            A step is refused, or the model is not finite after the last one; it names the step and
            the layer.
        ModelFileError
            The checkpoint to go on with is damaged.

        Warns
        -----
        UserWarning
            With the squared error: at the end the model predicts its training samples, and is worse
            than the mean of their targets. A model says so once.
        """
        return fitting.fit(
            self,
            X,
            y,
            epochs=epochs,
            batch_size=batch_size,
            sample_weight=sample_weight,
            validation_data=validation_data,
            shuffle=shuffle,
            early_stopping=early_stopping,
            schedule=schedule,
            until_accuracy=until_accuracy,
            callbacks=callbacks,
            progress=progress,
            check_finite=check_finite,
            on_divergence=on_divergence,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )

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
            Bytes. A checkpoint takes up to two copies of the parameters and moments more while it
            is written.

        Raises
        ------
        TypeError, ValueError
            A size is not an integer, or too small.
        """
        batch_size = integer("batch_size", batch_size, 1 + self.config.batch_norm)
        x_dtype = self.dtype if x_dtype is None else np.dtype(x_dtype)
        return peak_bytes(
            self.layout, self.config,
            n_samples=integer("n_samples", n_samples, 1),
            rows=int(np.diff(minibatch_bounds(n_samples, batch_size)).max()),
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

        DivergenceError where a step is refused, as in `fit`: the model is as it was before that
        step, with those of the minibatches before it.
        """
        samples = training_samples(self._engine, X, y, sample_weight)
        n = len(samples.arrays.x)
        size = (
            n
            if batch_size is None
            else integer("batch_size", batch_size, 1 + self.config.batch_norm)
        )
        bounds = minibatch_bounds(n, size)
        lrs = np.full(bounds.size - 1, self.config.lr)
        self._engine.run_steps(samples, np.arange(n), bounds, lrs)
        return self

    def train_step(self, X: Any, y: Any, *, sample_weight: Any = None) -> float:
        """Take one optimizer step on the minibatch (X, y) and return its loss before the step.

        DivergenceError where it is refused, as in `fit`: the model is as it was.
        """
        samples = training_samples(self._engine, X, y, sample_weight)
        n, lrs = len(samples.arrays.x), np.array([self.config.lr])
        losses, _ = self._engine.run_steps(samples, np.arange(n), np.array([0, n]), lrs)
        return float(losses[0])

    # -- inference ---------------------------------------------------------------------------------

    def predict_logits(self, X: Any) -> np.ndarray:
        """Outputs before softmax or sigmoid, (samples, outputs), with the running statistics.

        They are those of the network itself: with `target_normalization` in normalized units.
        """
        self.scaling.require_fitted()
        return self._engine.logits(prediction_samples(self._engine, X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, or with sigmoid cross-entropy of each output.

        (samples, outputs); ValueError where the loss is the squared error.
        """
        probabilities = self.predict_logits(X)
        to_probabilities(probabilities, self.config)
        return probabilities

    def predict(self, X: Any) -> np.ndarray:
        """Predict each sample's class, classes or numbers.

        The most probable class, (samples,) int64. With sigmoid cross-entropy 1 where an output is
        more probable than not, else 0, (samples, outputs) int64. With the squared error the
        outputs, (samples, outputs): with `target_normalization` in the units of the targets and
        float64, which holds what the model's dtype may not, such as dates.
        """
        self.target_scaling.require_fitted()
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
        self.scaling.require_fitted()
        self.target_scaling.require_fitted()
        data = labelled_data(self._engine, X, y)
        return self._engine.evaluate(kernel_samples(data, self.scaling, self.target_scaling))

    # -- files and snapshots -----------------------------------------------------------------------

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
        saving.write(self, path)

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
        model = cls.__new__(cls)
        model._engine, model.metadata = saving.read(path)
        return model

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the trained state that `restore` takes."""
        return self._engine.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot of this model.

        Raises
        ------
        TypeError, ValueError
            It is of another model.
        RuntimeError
            Another thread trains the model.
        """
        self._engine.restore(snapshot)
