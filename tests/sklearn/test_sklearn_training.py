"""How the estimators train: partial_fit, warm start, stopping, learning rates, interruption."""

from __future__ import annotations

import signal
import warnings

import numpy as np
import pytest
from estimators import FAST, QUIET
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from fastbn.model.engine import Engine
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor
from fastbn.sklearn._rates import rate_of

pytestmark = QUIET


def test_partial_fit(iris):
    X, y = iris
    model = BatchNormMLPClassifier(**FAST)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, y)
    model.partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
    for _ in range(100):
        model.partial_fit(X, y)
    assert model.n_iter_ == 1
    assert len(model.loss_curve_) == 101
    assert model.t_ == 100 + 100 * 150
    assert model.score(X, y) > 0.95
    with pytest.raises(ValueError, match="is not the same as on last call"):
        model.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        model.set_params(early_stopping=True).partial_fit(X, y)


def test_warm_start_continues_and_a_cold_start_starts_over(iris):
    X, y = iris
    warm = BatchNormMLPClassifier(**FAST, warm_start=True).fit(X, y)
    first = warm.loss_curve_[-1]
    warm.set_params(learning_rate_init=0.001).fit(X, y)
    assert len(warm.loss_curve_) == 60
    assert warm.loss_curve_[30] < 1.5 * first
    assert warm.model_.config.lr == 0.001
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same"):
        warm.fit(X, y + 1)
    with pytest.raises(ValueError, match="layer_sizes: expected .* as in the earlier fit"):
        warm.set_params(hidden_layer_sizes=5).fit(X, y)
    assert len(warm.loss_curve_) == 60
    cold = BatchNormMLPClassifier(**FAST).fit(X, y)
    assert cold.fit(X, y).loss_curve_[0] == cold.loss_curve_[0]
    assert len(cold.loss_curve_) == 30


def test_early_stopping_keeps_the_best_epoch(iris):
    X, y = iris
    options = {**FAST, "max_iter": 500, "early_stopping": True, "validation_fraction": 0.3}
    model = BatchNormMLPClassifier(**options).fit(X, y)
    assert model.n_iter_ < 500
    assert model.best_validation_score_ == max(model.validation_scores_)
    regressor = BatchNormMLPRegressor(**options).fit(X, y)
    assert regressor.best_validation_score_ == max(regressor.validation_scores_) > 0.7
    with pytest.raises(ValueError, match="The validation set is too small"):
        BatchNormMLPRegressor(early_stopping=True).fit(X[:10], y[:10])


def test_it_stops_when_the_loss_no_longer_improves(iris, capsys):
    X, y = iris
    model = BatchNormMLPClassifier(**{**FAST, "max_iter": 1000}, tol=0.05, verbose=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, y)
    assert 11 < model.n_iter_ < 200
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"Iteration 1, loss = {model.loss_curve_[0]:.8f}"
    assert out[-1] == (
        "Training loss did not improve more than tol=0.050000 for 10 consecutive epochs. Stopping."
    )
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        model.set_params(max_iter=3).fit(X, y)


def test_learning_rates_of_sgd(iris, capsys):
    X, y = iris
    options = {**FAST, "solver": "sgd", "shuffle": False, "batch_size": 50, "max_iter": 4}
    scaled = BatchNormMLPClassifier(**options, learning_rate="invscaling", power_t=0.5)
    scaled.fit(X, y)
    rate = rate_of(scaled, 150, 3, 0, None)
    expected = [0.01] * 3 + [0.01 / 151**0.5] * 3 + [0.01 / 301**0.5] * 3
    np.testing.assert_allclose([rate.schedule(step) for step in range(9)], expected)
    adaptive = BatchNormMLPClassifier(**options, learning_rate="adaptive", tol=0.5)
    adaptive.set_params(max_iter=400, n_iter_no_change=2, verbose=True).fit(X, y)
    assert adaptive.n_iter_ < 100  # 0.01 is divided by five until it is below 1e-6
    out = capsys.readouterr().out
    assert "consecutive epochs. Setting learning rate to 0.002000\n" in out
    assert out.endswith("consecutive epochs. Learning rate too small. Stopping.\n")


def rates_of_partial_fits(monkeypatch, calls, X, y, **options):
    """Return learning rates of the first step of each `partial_fit`, ours and scikit-learn's."""
    ours, theirs = BatchNormMLPClassifier(**options), MLPClassifier(**options)
    found, expected, real = [], [], Engine.take_steps
    monkeypatch.setattr(
        Engine, "take_steps",
        lambda self, samples, order, bounds, lrs, *refused, **logs: found.append(lrs[0])
        or real(self, samples, order, bounds, lrs, *refused, **logs),
    )  # fmt: skip
    for _ in range(calls):
        if theirs.__dict__.get("_optimizer") is None:
            expected.append(options["learning_rate_init"])
        else:
            expected.append(theirs._optimizer.learning_rate)
        theirs.partial_fit(X, y, classes=np.unique(y))
        ours.partial_fit(X, y, classes=np.unique(y))
    monkeypatch.undo()
    return found, expected


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": "invscaling", "learning_rate_init": 0.5},
        {"learning_rate": "adaptive", "learning_rate_init": 0.5, "tol": 10, "n_iter_no_change": 2},
    ],
)
def test_rates_continue_from_one_partial_fit_to_the_next(monkeypatch, iris, options):
    found, expected = rates_of_partial_fits(
        monkeypatch, 10, *iris, solver="sgd", random_state=0, **options
    )
    np.testing.assert_allclose(found, expected)
    assert found[-1] < 0.1


def test_a_schedule_continues_from_one_partial_fit_to_the_next(iris):
    X, y = iris
    seen = []
    model = BatchNormMLPClassifier(
        **{**FAST, "max_iter": 4, "batch_size": 50}, schedule=lambda step: seen.append(step) or 0.01
    )
    for _ in range(4):
        model.partial_fit(X, y, classes=[0, 1, 2])
    assert sorted(set(seen)) == list(range(12))


def test_schedules_solvers_and_smoothing(iris):
    X, y = iris
    for options in (
        {"schedule": "one-cycle"}, {"solver": "adamw", "alpha": 0.1}, {"solver": "rmsprop"},
        {"label_smoothing": 0.1}, {"dropout": 0.2}, {"max_norm": 1.0},
        {"schedule": lambda step: 0.03 / (1 + step / 10)}, {"batch_norm_output": True},
    ):  # fmt: skip
        model = BatchNormMLPClassifier(**{**FAST, "max_iter": 60}, **options)
        assert model.fit(X, y).score(X, y) > 0.85, options
    with pytest.raises(ValueError, match="schedule: expected None with learning_rate='adaptive'"):
        BatchNormMLPClassifier(schedule="cosine", learning_rate="adaptive").fit(X, y)
    with pytest.warns(UserWarning, match="solver='lbfgs' takes all samples at once"):
        assert BatchNormMLPClassifier(**FAST, solver="lbfgs").fit(X, y).score(X, y) > 0.85
    assert not hasattr(BatchNormMLPClassifier(solver="lbfgs"), "partial_fit")


def test_a_fit_that_diverges_loses_nothing(iris):
    X, y = iris
    model = BatchNormMLPRegressor(**FAST, batch_norm=False, warm_start=True).fit(X, y)
    before, weights = model.model_, model.model_.params.copy()
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        model.set_params(learning_rate_init=1e30, solver="sgd").fit(X, y)
    assert model.model_ is before
    assert np.array_equal(model.model_.params, weights)
    with pytest.raises(ValueError, match="y: expected .*outputs as in the earlier fit"):
        model.fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:, :2])


def test_early_stopping_of_a_fit_that_diverges_goes_back_to_the_best_epoch(diabetes):
    X, y = diabetes
    model = BatchNormMLPRegressor(
        **FAST, solver="sgd", early_stopping=True, batch_norm=False,
        schedule=lambda step: 0.01 if step < 10 else 1e30,
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match="Training diverged: the weights are those of"):
        model.fit(X, y)
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.best_validation_score_)
    assert np.isfinite(model.predict(X)).all()
    best = model.set_params(warm_start=True, learning_rate_init=1e-9, schedule=None, max_iter=1)
    before = best.predict(X)
    best.fit(X, y)
    np.testing.assert_allclose(best.predict(X), before, rtol=1e-3, atol=1e-3)


def test_warm_start_goes_back_to_the_best_epoch_of_all(iris):
    X, y = iris
    model = BatchNormMLPClassifier(**FAST, early_stopping=True, warm_start=True).fit(X, y)
    best, said = model.best_validation_score_, model.predict_proba(X)
    model.set_params(schedule=lambda step: 10.0, solver="sgd", max_iter=2)
    model.fit(X, y)
    assert model.best_validation_score_ == best
    assert max(model.validation_scores_[-2:]) < best
    assert np.array_equal(model.predict_proba(X), said)


def test_another_solver_starts_with_zero_moments(iris):
    X, y = iris
    options = {**FAST, "warm_start": True}
    model = BatchNormMLPClassifier(**options, solver="sgd", tol=0).fit(X, y)
    last = model.loss_curve_[-1]
    model.set_params(solver="adam", learning_rate_init=1e-3, max_iter=5).fit(X, y)
    assert model.model_.steps == 5
    assert max(model.loss_curve_[-5:]) < 1.1 * last


def test_classes_of_one_sample_and_early_stopping():
    X, y = load_digits(return_X_y=True)
    y = y.copy()
    y[0] = 17
    model = BatchNormMLPClassifier(**FAST, early_stopping=True).fit(X[:80], y[:80])
    assert 17 in model.classes_


def test_a_batch_size_of_one_becomes_two(iris):
    X, y = iris
    with pytest.warns(UserWarning, match="batch norm needs 2 samples"):
        model = BatchNormMLPClassifier(**{**FAST, "max_iter": 1}, batch_size=1).fit(X, y)
    assert model.model_.steps == 75


@pytest.mark.parametrize("raises", [False, True])
def test_ctrl_c_keeps_what_was_learned(iris, raises):
    """With fastbn's signal handler, and with another one that raises at once."""
    X, y = iris

    class Impatient(BatchNormMLPClassifier):
        def _validation_score(self, *args):
            score = super()._validation_score(*args)
            signal.raise_signal(signal.SIGINT)
            return score

    def handler(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler) if raises else None
    try:
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            model = Impatient(**FAST, early_stopping=True).fit(X, y)
    finally:
        if raises:
            signal.signal(signal.SIGINT, before)
    assert model.n_iter_ == 1
    assert model.predict(X).shape == y.shape


def test_a_first_part_of_constant_targets(diabetes):
    X, y = diabetes
    model = BatchNormMLPRegressor(random_state=0, learning_rate_init=0.01)
    model.partial_fit(X[:50], np.full(50, 0.1))
    assert (model.target_mean_, model.target_scale_) == (0.1, 1.0)
    y = (y - y.mean()) / y.std()
    for _ in range(100):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.5


def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads(iris):
    X, y = iris
    first = BatchNormMLPClassifier(**FAST, n_threads=1).fit(X, y)
    for other in (BatchNormMLPClassifier(**FAST), BatchNormMLPClassifier(**FAST, n_threads=2)):
        assert np.array_equal(other.fit(X, y).model_.params, first.model_.params)
    state = np.random.RandomState(0)
    again = BatchNormMLPClassifier(**{**FAST, "random_state": state}).fit(X, y)
    assert np.array_equal(again.model_.params, first.model_.params)
    assert not np.array_equal(again.fit(X, y).model_.params, first.model_.params)


def test_threads_are_limited(monkeypatch):
    from fastbn.parallel import cores

    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)
    monkeypatch.setattr(cores, "fast_cores", frozenset)
    monkeypatch.setattr(cores, "core_quota", lambda: None)
    for name in ("FASTBN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with cores.at_most(3):
        assert cores.available_threads() == 3
        with cores.at_most(None):
            assert cores.available_threads() == 3
        monkeypatch.setenv("FASTBN_NUM_THREADS", "5")
        assert cores.available_threads() == 3
    assert cores.available_threads() == 5
