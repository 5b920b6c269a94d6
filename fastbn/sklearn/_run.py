"""One fit of an estimator: when it stops, what it prints, and the attributes that it sets."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastbn.fit.history import History
from fastbn.fit.plan import minibatch_count
from fastbn.model import BatchNormMLP, fitting
from fastbn.model.worse_than_mean import worse_than_mean
from fastbn.sklearn._callbacks import Hooks
from fastbn.sklearn._rates import Rate, rate_of


class Run:
    """One fit of an estimator; `held` are X, y and weights of the validation set, or None."""

    def __init__(
        self, estimator: Any, model: BatchNormMLP, facts: dict[str, Any], held: Any,
        is_first: bool, incremental: bool, data: dict[str, Any],
    ) -> None:  # fmt: skip
        self.estimator, self.model, self.facts, self.held = estimator, model, facts, held
        self.incremental = incremental
        self.max_iter = 1 if incremental else estimator.max_iter

        def earlier(name: str, default: Any) -> Any:
            value = None if is_first else getattr(estimator, name, None)
            return default if value is None else value

        self.losses: list[float] = list(earlier("loss_curve_", []))
        self.scores: list[float] = list(earlier("validation_scores_", []))
        self.best_loss = earlier("best_loss_", np.inf)
        self.best_score = earlier("best_validation_score_", -np.inf)
        self.seen = earlier("t_", 0)
        self.waited = earlier("_waited", 0) if incremental else 0
        self.epochs = 0
        self.converged = False
        self.stop_reason = "epochs"
        # the best epoch so far may be one of the earlier fit
        is_scored = held is not None and self.best_score > -np.inf
        self._best = model.snapshot() if is_scored else None
        self._samples = 0
        self._rate = Rate()
        self._worse_than_mean: str | None = None
        self._hooks = Hooks(
            estimator,
            data,
            self.max_iter,
            lambda: {**self.attributes(), "model_": copy.deepcopy(model)},
        )

    def train(self, X: Any, targets: Any, weight: Any, batch_size: int) -> None:
        """Train the model, which must not be used if this fails."""
        estimator, self._samples = self.estimator, X.shape[0]
        steps = minibatch_count(self._samples, batch_size)
        before = self.model.steps if self.incremental else None
        self._rate = rate_of(estimator, self._samples, steps, self.seen, before)
        self._hooks.begin()
        samples = None
        try:
            # without the warning of `BatchNormMLP.fit`: `finish` names the estimator's parameters
            history, samples = fitting.train(
                self.model, X, targets, epochs=self.max_iter, batch_size=batch_size,
                sample_weight=weight, shuffle=estimator.shuffle, schedule=self._rate.schedule,
                progress=False, callbacks=[self._after_epoch], on_divergence="stop",
                early_stopping=None, until_accuracy=None,
            )  # fmt: skip
            self.stop_reason = history.stop_reason
        except KeyboardInterrupt:  # raised by a signal handler of the caller
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
        if is_over and not self.incremental and samples is not None:
            self._worse_than_mean = worse_than_mean(
                self.model, samples, "a larger max_iter or another learning_rate_init"
            )

    def _after_epoch(self, model: BatchNormMLP, history: History) -> bool:
        estimator = self.estimator
        self.epochs += 1
        self.seen += self._samples
        self.losses.append(history.loss[-1])
        self._print(f"Iteration {self.epochs}, loss = {self.losses[-1]:.8f}")
        improved = self._loss_improved() if self.held is None else self._score_improved()
        self.waited = 0 if improved else self.waited + 1
        if self.waited > estimator.n_iter_no_change:
            self.converged, then = self._rate.slow_down()
            self.waited = 0
            what = "Training loss" if self.held is None else "Validation score"
            self._print(
                f"{what} did not improve more than tol={estimator.tol:f} for "
                f"{estimator.n_iter_no_change} consecutive epochs. {then}"
            )
        is_last = self.converged or self.epochs == self.max_iter
        return self._hooks.end_epoch(is_last) or self.converged

    def _print(self, line: str) -> None:
        if self.estimator.verbose:
            print(line)

    def _loss_improved(self) -> bool:
        loss = self.losses[-1]
        improved = loss <= self.best_loss - self.estimator.tol
        self.best_loss = min(self.best_loss, loss)
        return improved

    def _score_improved(self) -> bool:
        score = self.estimator._validation_score(self.model, self.facts, *self.held)
        self.scores.append(score)
        self._print(f"Validation score: {score:f}")
        improved = score >= self.best_score + self.estimator.tol
        if score > self.best_score:
            self.best_score, self._best = score, self.model.snapshot()
        return improved

    def attributes(self) -> dict[str, Any]:
        """Return the present fitted attributes."""
        is_scored = self.held is not None
        return {
            **{name: value for name, value in self.facts.items() if name != "loss"},
            "model_": self.model,
            "loss_": self.losses[-1] if self.losses else None,
            "loss_curve_": list(self.losses),
            "best_loss_": None if is_scored else self.best_loss,
            "validation_scores_": list(self.scores) if is_scored else None,
            "best_validation_score_": self.best_score if is_scored else None,
            "n_iter_": self.epochs,
            "t_": self.seen,
            "_waited": self.waited,
            "_learning_rate": self._rate.current,
        }

    def finish(self) -> None:
        """End the callbacks, and warn about a fit that did not end well."""
        self._hooks.end()
        if self._worse_than_mean is not None:
            warnings.warn(self._worse_than_mean, stacklevel=4)
        if self.stop_reason == "interrupted":
            warnings.warn("Training interrupted by user.", stacklevel=4)
        elif self.stop_reason == "diverged":
            warnings.warn(
                "Training diverged: the weights are those of the best epoch so far.",
                ConvergenceWarning,
                stacklevel=4,
            )
        elif self.stop_reason == "epochs" and not (self.incremental or self.converged):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )
