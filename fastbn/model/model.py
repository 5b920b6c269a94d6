"""The model class: its arguments, training, prediction, and files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastbn.checks import integer, shown
from fastbn.files import model_file
from fastbn.fit.history import EarlyStopping, History
from fastbn.fit.loop import Callback
from fastbn.fit.plan import minibatch_bounds
from fastbn.fit.schedules import Schedule
from fastbn.model import fitting, memory, saving
from fastbn.model.attributes import Attributes
from fastbn.model.config import ModelConfig
from fastbn.model.engine import Engine
from fastbn.model.inputs import kernel_samples, labelled_data, prediction_samples, training_samples
from fastbn.model.parameters import PARAMETERS
from fastbn.model.targets import decisions, to_probabilities
from fastbn.options import (
    Activation,
    DType,
    Gradient,
    InputNormalization,
    Loss,
    OnDivergence,
    Optimizer,
    ShowProgress,
    TargetNormalization,
    document,
)


@document(parameters=PARAMETERS)
class BatchNormMLP(Attributes):
    """Multilayer perceptron with batch normalization, trained by compiled kernels.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    config : ModelConfig
        The arguments. You can set another config of the same architecture, for example with another
        learning rate.
    params, grads, m, v : arrays (K,)
        Parameters, gradients and both moments as flat buffers; `named_parameters` gives views. You
        can edit them in place. Assigning an array of the same shape and dtype copies its numbers.
    running_mean, running_var : arrays (units,)
        Running statistics of all layers, one after the other. Edit or assign them like `params`.
    steps, epochs : int
        Optimizer steps done, and epochs that fits have begun.
    metadata : dict
        Any notes that JSON can represent; `save` stores them with the model.

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
        config = ModelConfig(**{k: v for k, v in locals().items() if k != "self"})
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
        progress: ShowProgress = "auto",
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
            The last minibatch may be smaller. A single sample is added to the minibatch before it.
        sample_weight : array (samples,), optional
            Weights of the samples: the loss of a minibatch is the weighted mean of its samples'
            losses. Rows of weight 0 do not count in the scaling of inputs and targets.
        validation_data : pair (X, y), optional
            Data to evaluate after every epoch.
        shuffle : bool
            Draw a new order of the samples for every epoch.
        early_stopping : EarlyStopping or int, optional
            An integer is the patience in epochs. The state of the best epoch is restored at the
            end, also if the fit raises a DivergenceError.
        schedule : None, "cosine", "one-cycle", "step", "exponential" or callable
            Learning rate of each step of this fit. A callable gets the number of the step, from 0.
        until_accuracy : float, optional
            Stop after the first epoch with a higher training accuracy.
        callbacks : iterable of callables
            Each is called as ``callback(model, history)`` after every epoch. The fit stops if one
            returns True.
        progress : True, False or "auto"
            Show a progress bar on stderr. "auto" shows it if stderr is a terminal and rich is
            installed.
        check_finite : bool
            Check X for NaN and infinities before training.
        on_divergence : "raise", "stop" or "skip"
            What to do if the loss, a variance or the gradient of a step is not finite, or if an
            entry of the gradient is too large to be squared in the model's dtype (1.8e19 in
            float32) and `max_norm` does not scale it down. Such a step is refused: it changes no
            parameter, moment, running statistic or step counter. "raise" then raises an error, and
            "stop" ends the fit with the stop reason "diverged". "skip" goes on with the next
            minibatch, and raises an error if more than ten consecutive steps are refused. An update
            that is finite but ruins the parameters is not undone; the next step is then refused.
        checkpoint : path, optional
            File for the model and the state of the fit; `load` reads it, too. In the main thread of
            Python, Ctrl-C and SIGTERM end the fit after the current call of about 50 ms, and the
            checkpoint is written a last time.
        checkpoint_every : int, optional
            Steps between two checkpoints; by default one is written after every epoch.
        resume : bool
            Continue the fit in the file `checkpoint`, if it exists. The result has the same bits as
            without the interruption. Arguments and data must be the same as in the first call. If
            that fit was complete, its model and history are restored. If False, the file is
            replaced.

        Returns
        -------
        History
            Ctrl-C ends the fit after about 50 ms, or after compiling, with the stop reason
            "interrupted".

        Raises
        ------
        TypeError, ValueError
            An argument is not as described above. The model has not changed.
        DivergenceError
            A step is refused, or the model is not finite after the last step. The error names the
            step and the layer. The model is as it was before the refused step, or after the best
            epoch if early stopping keeps it.
        ModelFileError
            The checkpoint to resume from is damaged.

        Warns
        -----
        UserWarning
            With the squared error, the trained model predicts its training samples worse than the
            mean of their targets. Each model warns once.
        """
        arguments = dict(locals())
        return fitting.fit(arguments.pop("self"), **arguments)

    def fit_bytes(
        self, n_samples: int, batch_size: int, *, x_dtype: Any = None, sample_weight: bool = False,
        validation_samples: int = 0, early_stopping: bool = False, threads: int | None = None,
    ) -> int:  # fmt: skip
        """Return the peak memory of `fit`, including the model but not the caller's arrays.

        Parameters
        ----------
        n_samples, batch_size, validation_samples : int
        x_dtype : dtype, optional
            Dtype of X and the validation data, by default the model's. Data of other dtypes are
            copied, except uint8, which is copied only if the model's inputs were normalized in
            float64. Copies of arrays that are not contiguous are not counted.
        sample_weight, early_stopping : bool
            Whether the fit has sample weights, and whether it keeps its best parameters.
        threads : int, optional
            Number of threads, by default the most that `fit` may use.

        Returns
        -------
        int
            Bytes. Writing a checkpoint takes up to two more copies of the parameters and moments,
            which are not included.

        Raises
        ------
        TypeError, ValueError
            A size is not an integer, or too small.
        """
        return memory.fit_bytes(
            self._engine, n_samples, batch_size, x_dtype, sample_weight, validation_samples,
            early_stopping, threads,
        )  # fmt: skip

    def partial_fit(
        self, X: Any, y: Any, *, batch_size: int | None = None, sample_weight: Any = None
    ) -> BatchNormMLP:
        """Train for one pass over (X, y), in the given order, in minibatches or all at once.

        This trains on data larger than memory: ``for X, y in batches: model.partial_fit(X, y)``.
        Input normalization is fitted to the first batch.

        Raises DivergenceError if a step is refused, as in `fit`. The steps before it are kept.
        """
        samples = training_samples(self._engine, X, y, sample_weight)
        n = len(samples.arrays.x)
        least = 1 + self.config.batch_norm
        size = n if batch_size is None else integer("batch_size", batch_size, least)
        bounds = minibatch_bounds(n, size)
        lrs = np.full(bounds.size - 1, self.config.lr)
        self._engine.run_steps(samples, np.arange(n), bounds, lrs)
        return self

    def train_step(self, X: Any, y: Any, *, sample_weight: Any = None) -> float:
        """Take one optimizer step on the minibatch (X, y) and return its loss before the step.

        Raises DivergenceError if the step is refused, as in `fit`. The model does not change then.
        """
        samples = training_samples(self._engine, X, y, sample_weight)
        n, lrs = len(samples.arrays.x), np.array([self.config.lr])
        losses, _ = self._engine.run_steps(samples, np.arange(n), np.array([0, n]), lrs)
        return float(losses[0])

    # -- inference ---------------------------------------------------------------------------------

    def predict_logits(self, X: Any) -> np.ndarray:
        """Return outputs before softmax or sigmoid, (samples, outputs), with running statistics.

        With `target_normalization` they are in normalized units.
        """
        self.scaling.require_fitted()
        return self._engine.logits(*prediction_samples(self._engine, X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, or of each output for sigmoid cross-entropy.

        The shape is (samples, outputs). Raises ValueError if the loss is the squared error.
        """
        probabilities = self.predict_logits(X)
        to_probabilities(probabilities, self.config)
        return probabilities

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class, classes or numbers of each sample.

        Softmax cross-entropy: the most probable class, (samples,) int64. Sigmoid cross-entropy: 1
        for outputs with a probability above 1/2, else 0, (samples, outputs) int64. Squared error:
        the outputs, (samples, outputs). With `target_normalization` they are in the units of the
        targets and in float64, since float32 cannot represent numbers such as dates.
        """
        self.target_scaling.require_fitted()
        logits = self.predict_logits(X)
        if self.target_scaling.mode is not None:
            return self.target_scaling.undo(logits)
        return decisions(logits, self.config)

    def evaluate(self, X: Any, y: Any) -> tuple[float, float]:
        """Return the mean loss on (X, y) and the accuracy, or for the squared error R2.

        For sigmoid cross-entropy, a sample counts as correct if all its outputs are correct. R2 is
        1 minus the ratio of the model's squared error to that of predicting the mean of the
        targets, averaged over the outputs. With `target_normalization`, y is in the units of the
        targets, and the loss is computed from normalized targets, as in training.
        """
        self.scaling.require_fitted()
        self.target_scaling.require_fitted()
        data = labelled_data(self._engine, X, y)
        return self._engine.evaluate(kernel_samples(data, self.scaling, self.target_scaling))

    # -- files and snapshots -----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str] | model_file.Writable) -> None:
        """Write everything to a safetensors file.

        The file contains parameters, moments, running statistics, scalings, counters and the
        configuration. A loaded model predicts the same bits and continues training from the same
        point.

        Parameters
        ----------
        path : path or binary file
            A file at a path is replaced as a whole, or not changed if anything fails. An object
            with ``write(bytes)``, such as `io.BytesIO` or a gzip or network stream, may have
            received some of the bytes if writing fails. The model is checked before anything is
            written.

        Raises
        ------
        TypeError, ValueError, OSError
            `path` is not a path or binary file, or cannot be written, or the model cannot be
            stored, for example because a number is not finite.
        """
        saving.write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | model_file.Readable) -> BatchNormMLP:
        """Return the model in a file that `save` wrote, or in a checkpoint of `fit`.

        Parameters
        ----------
        path : path or binary file
            An object with ``read(size)``, such as `io.BytesIO` or a gzip or network stream, is read
            from its position to its end, without seeking. Wrap bytes in `io.BytesIO`.

        Raises
        ------
        ModelFileError
            There is no valid model in the file. It is checked before memory is allocated, and
            nothing in it is executed.
        TypeError
            `path` is not a path or binary file.
        """
        model = cls.__new__(cls)
        model._engine, model.metadata = saving.read(path)
        return model

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of the trained state that `restore` takes."""
        return self._engine.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot of this model.

        Raises
        ------
        TypeError, ValueError
            The snapshot is of another model.
        RuntimeError
            Another thread is training the model.
        """
        self._engine.restore(snapshot)
