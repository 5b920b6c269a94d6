"""One fit of an estimator: when it stops, and the attributes that it sets."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastbn.fit.history import History
from fastbn.fit.plan import minibatch_bounds
from fastbn.model import BatchNormMLP
from fastbn.model.inputs import training_samples
from fastbn.model.worse_than_mean import worse_than_mean
from fastbn.sklearn._callbacks import Hooks
from fastbn.sklearn._rates import Rate, rate_of


class Run:
    """One fit: the loss of its epochs, when to stop, and the fitted attributes."""

    def __init__(
        self, estimator: Any, model: BatchNormMLP, facts: dict[str, Any], held: Any,
        max_iter: int, is_first: bool, incremental: bool, given: dict[str, Any],
    ) -> None:  # fmt: skip
        self.estimator, self.model, self.facts, self.held = estimator, model, facts, held
        self.max_iter, self._incremental = max_iter, incremental
        model._engine.warns_of_mean = False  # `finish` warns, in the estimator's words
        self._worse_than_mean: str | None = None
        earlier: Any = {} if is_first else vars(estimator)
        self.losses: list[float] = list(earlier.get("loss_curve_", []))
        self.scores: list[float] = list(earlier.get("validation_scores_") or [])
        self.best_loss = earlier.get("best_loss_")
        self.best_loss = np.inf if self.best_loss is None else self.best_loss
        self.best_score = earlier.get("best_validation_score_")
        self.best_score = -np.inf if self.best_score is None else self.best_score
        self.seen = earlier.get("t_", 0)
        self.epochs = 0
        self.waited = earlier.get("_waited", 0) if incremental else 0
        self.converged = False
        self.stop_reason = "epochs"
        self._best: dict[str, Any] | None = None
        if held is not None and self.best_score > -np.inf:
            self._best = model.snapshot()  # an earlier fit's best epoch
        self._samples = 0
        self._rate = Rate()
        self._hooks = Hooks(
            estimator,
            given,
            max_iter,
            lambda: {**self.attributes(), "model_": copy.deepcopy(model)},
        )

    def train(self, X: Any, targets: Any, weight: Any, batch_size: int) -> None:
        """Train the model; it is not to be used where this fails."""
        estimator, self._samples = self.estimator, X.shape[0]
        steps = minibatch_bounds(self._samples, batch_size).size - 1
        before = self.model.steps if self._incremental else None
        self._rate = rate_of(estimator, self._samples, steps, self.seen, before)
        self._hooks.begin()
        try:
            history = self.model.fit(
                X, targets, epochs=self.max_iter, batch_size=batch_size, sample_weight=weight,
                shuffle=estimator.shuffle, schedule=self._rate.schedule, progress=False,
                callbacks=[self._after_epoch], on_divergence="stop",
            )  # fmt: skip
            self.stop_reason = history.stop_reason
        except KeyboardInterrupt:  # raised by somebody else's handler of the signal
            self.stop_reason = "interrupted"
        if self._best is not None:
            self.model.restore(self._best)
        lost = self.stop_reason == "diverged" and self._best is None
        if lost or not np.isfinite(self.model.params).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        is_over = self.stop_reason not in ("diverged", "interrupted")
        if is_over and not self._incremental and self.model.config.loss == "squared_error":
            self._worse_than_mean = worse_than_mean(
                self.model._engine,
                training_samples(self.model, X, targets, weight),
                "a larger max_iter or another learning_rate_init",
            )

    def _after_epoch(self, model: BatchNormMLP, history: History) -> bool:
        estimator = self.estimator
        self.epochs += 1
        self.seen += self._samples
        self.losses.append(history.loss[-1])
        if estimator.verbose:
            print(f"Iteration {self.epochs}, loss = {self.losses[-1]:.8f}")
        improved = self._look_at_score() if self.held is not None else self._look_at_loss()
        self.waited = 0 if improved else self.waited + 1
        stop = False
        if self.waited > estimator.n_iter_no_change:
            lower = self._rate.slow_down()
            stop, self.waited = lower is None, 0
            if estimator.verbose:
                what = "Training loss" if self.held is None else "Validation score"
                then = self._rate.why if stop else f"Setting learning rate to {lower:f}"
                print(
                    f"{what} did not improve more than tol={estimator.tol:f} for "
                    f"{estimator.n_iter_no_change} consecutive epochs. {then}"
                )
        self.converged = stop
        return self._hooks.end_epoch(self.epochs, stop) or stop

    def _look_at_loss(self) -> bool:
        loss, improved = self.losses[-1], self.losses[-1] <= self.best_loss - self.estimator.tol
        self.best_loss = min(self.best_loss, loss)
        return improved

    def _look_at_score(self) -> bool:
        score = self.estimator._validation_score(self.model, self.facts, *self.held)
        self.scores.append(score)
        if self.estimator.verbose:
            print(f"Validation score: {score:f}")
        improved = score >= self.best_score + self.estimator.tol
        if score > self.best_score:
            self.best_score, self._best = score, self.model.snapshot()
        return improved

    def attributes(self) -> dict[str, Any]:
        """Return the fitted attributes as they are now."""
        by_score = self.held is not None
        facts = {name: value for name, value in self.facts.items() if name != "loss"}
        return {
            **facts,
            "model_": self.model,
            "loss_": self.losses[-1] if self.losses else None,
            "loss_curve_": list(self.losses),
            "best_loss_": None if by_score else self.best_loss,
            "validation_scores_": list(self.scores) if by_score else None,
            "best_validation_score_": self.best_score if by_score else None,
            "n_iter_": self.epochs,
            "t_": self.seen,
            "_waited": self.waited,
            "_learning_rate": self._rate.current,
        }

    def finish(self, warns: bool) -> None:
        """Tell the callbacks that the fit is over, and the user if it is not at its end."""
        self._hooks.end()
        if self._worse_than_mean is not None:
            warnings.warn(self._worse_than_mean, stacklevel=5)
        if self.stop_reason == "interrupted":
            warnings.warn("Training interrupted by user.", stacklevel=5)
        elif self.stop_reason == "diverged":
            warnings.warn(
                "Training diverged: the weights are those of the best epoch before.",
                ConvergenceWarning,
                stacklevel=5,
            )
        elif warns and self.stop_reason == "epochs" and not self.converged:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=5,
            )
