"""The estimators take the place of scikit-learn's: parameters, attributes, targets, tools."""

from __future__ import annotations

import doctest
import inspect
import pickle
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastbn.model.engine import Engine
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor
from fastbn.sklearn._rates import rate_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:the fit ends worse than the mean:UserWarning",
)

PAIRS = [(BatchNormMLPClassifier, MLPClassifier), (BatchNormMLPRegressor, MLPRegressor)]
FAST = {"hidden_layer_sizes": 16, "max_iter": 30, "random_state": 0, "learning_rate_init": 0.01}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_parameter_is_there_with_its_default_and_in_its_place(ours, theirs):
    have, want = (inspect.signature(kind).parameters for kind in (ours, theirs))
    for name, parameter in want.items():
        assert have[name].default == parameter.default, name
        assert have[name].kind == parameter.kind, name
    positional = [name for name, p in want.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert list(have)[: len(positional)] == positional


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_attribute_is_there(ours, theirs, iris):
    fitted = [kind(**FAST, early_stopping=True).fit(*iris) for kind in (ours, theirs)]
    have, want = (
        {name for name in dir(one) if name.endswith("_") and not name.startswith("_")}
        for one in fitted
    )
    assert want <= have
    for name in ("n_iter_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        if name != "n_iter_":
            assert getattr(fitted[0], name) == getattr(fitted[1], name), name
    for name in ("coefs_", "intercepts_"):
        mine, other = (getattr(one, name) for one in fitted)
        assert [array.shape for array in mine] == [array.shape for array in other]
    assert len(fitted[0].loss_curve_) == fitted[0].n_iter_
    assert len(fitted[0].validation_scores_) == fitted[0].n_iter_
    assert fitted[0].best_validation_score_ == max(fitted[0].validation_scores_)
    assert fitted[0].best_loss_ is None


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"solver": "sgd", "learning_rate_init": 0.05},
        {"solver": "sgd", "nesterovs_momentum": False, "momentum": 0.5},
        {"hidden_layer_sizes": (7, 5), "activation": "identity"},
        {"hidden_layer_sizes": (7, 5), "activation": "tanh"},
        {"activation": "logistic"},
        {"batch_size": 40, "alpha": 0.0},
    ],
)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "one", "several"])
def test_without_batch_norm_it_trains_as_scikit_learn_does(kind, options, iris, diabetes):
    """The same weights to begin with, the same minibatches: the same weights afterwards."""
    X, y = iris if kind in ("binary", "multiclass", "multilabel") else diabetes
    y = {"binary": y > 0, "multilabel": np.c_[y > 0, y > 1, y == 1], "several": np.c_[y, -y]}.get(
        kind, y
    )
    regression = kind in ("one", "several")
    if regression:  # scikit-learn does not scale targets
        y = (y - y.mean(axis=0)) / y.std(axis=0)
    # scikit-learn's penalty is larger in a last minibatch that is smaller: all at once
    shared = {"hidden_layer_sizes": 9, "shuffle": False, "random_state": 0, "batch_size": len(X)}
    shared |= options
    shared["epsilon"] = 1e-12  # scikit-learn adds it before Adam's correction
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    plain = {"batch_norm": False, "input_normalization": None, "dtype": "float64"}
    ours_type, theirs_type = PAIRS[regression]
    ours, theirs = ours_type(**shared, **plain), theirs_type(**shared)
    classes = np.arange(3) if kind == "multilabel" else np.unique(y)
    first = {} if regression else {"classes": classes}
    ours.partial_fit(X, y, **first)
    theirs.partial_fit(X, y, **first)
    model = ours.model_
    for index, (weight, bias) in enumerate(zip(theirs.coefs_, theirs.intercepts_, strict=True)):
        tensors = dict(model.named_parameters())
        tensors[f"layers.{index}.weight"][...] = weight.T
        tensors[f"layers.{index}.bias"][...] = bias
    for tensors in (model.m, model.v):
        tensors[...] = 0
    model.steps = 0
    del theirs._optimizer
    for _ in range(5):
        ours.partial_fit(X, y)
        theirs.partial_fit(X, y)
    for name in ("coefs_", "intercepts_"):
        for mine, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-5)
    if not regression:
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    if shared.get("alpha") == 0 and kind != "several":  # of several outputs ours is the sum
        assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-5)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity", "tanh", "logistic"])
@pytest.mark.parametrize("scaling", ["zscore", "minmax", None])
def test_coefs_are_the_network_that_predicts(iris, activation, scaling):
    X, y = iris
    model = BatchNormMLPClassifier(
        **FAST, activation=activation, input_normalization=scaling, dtype="float64"
    ).fit(X, y)
    act = {
        "relu": lambda y: np.maximum(y, 0),
        "leaky_relu": lambda y: np.where(y > 0, y, 0.01 * y),
        "identity": lambda y: y,
        "tanh": np.tanh,
        "logistic": lambda y: 1 / (1 + np.exp(-y)),
    }[activation]
    a = X
    for index, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        a = a @ weight + bias
        if index < model.n_layers_ - 2:
            a = act(a)
    p = np.exp(a - a.max(axis=1, keepdims=True))
    np.testing.assert_allclose(model.predict_proba(X), p / p.sum(axis=1, keepdims=True), atol=1e-10)


def test_two_classes_with_names():
    X, y = load_breast_cancer(return_X_y=True)
    y = np.array(["benign", "malignant"])[y]
    model = BatchNormMLPClassifier(random_state=0, max_iter=30).fit(X, y)
    assert list(model.classes_) == ["benign", "malignant"]
    assert model.score(X, y) > 0.97
    p = model.predict_proba(X)
    assert p.shape == (len(y), 2)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(model.predict(X), model.classes_[p.argmax(axis=1)])
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(p), rtol=1e-5, atol=1e-6)


def test_several_labels(iris):
    X, y = iris
    Y = np.c_[y == 0, y > 0, y == 2].astype(int)
    model = BatchNormMLPClassifier(**{**FAST, "max_iter": 100}).fit(X, Y)
    assert np.array_equal(model.classes_, [0, 1, 2])
    assert model.predict(X).shape == model.predict_proba(X).shape == Y.shape
    assert model.score(X, Y) > 0.9


def test_regression_of_several_targets_of_any_scale(diabetes):
    X, y = diabetes
    Y = np.c_[y * 1e6, y * 1e-6 + 3]
    model = BatchNormMLPRegressor(random_state=0, max_iter=100).fit(X, Y)
    assert model.score(X, Y) > 0.5
    np.testing.assert_allclose(model.target_mean_, Y.mean(axis=0))
    single = BatchNormMLPRegressor(random_state=0, max_iter=100).fit(X, y)
    assert single.predict(X).shape == (len(y),)
    constant = BatchNormMLPRegressor(random_state=0, max_iter=200).fit(X, np.full(len(y), 7.0))
    assert np.abs(constant.predict(X) - 7.0).mean() < 0.2


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


def test_warm_start_goes_on_and_cold_begins_anew(iris):
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


def test_it_stops_where_the_loss_does(iris, capsys):
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
    """Learning rates of the first step of each `partial_fit`, ours and scikit-learn's."""
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
def test_rates_go_on_from_one_partial_fit_to_the_next(monkeypatch, iris, options):
    found, expected = rates_of_partial_fits(
        monkeypatch, 10, *iris, solver="sgd", random_state=0, **options
    )
    np.testing.assert_allclose(found, expected)
    assert found[-1] < 0.1


def test_a_schedule_goes_on_from_one_partial_fit_to_the_next(iris):
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


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_in_a_pipeline(iris, backend):
    from joblib import parallel_backend

    X, y = iris
    pipeline = make_pipeline(StandardScaler(), BatchNormMLPClassifier(**FAST))
    grid = {"batchnormmlpclassifier__hidden_layer_sizes": [8, (8, 8)]}
    with parallel_backend(backend, n_jobs=2):
        found = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert found.best_score_ > 0.85
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert np.array_equal(
        found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


def test_copies_and_files(iris, tmp_path):
    import joblib

    X, y = iris
    model = BatchNormMLPClassifier(**FAST).fit(X, y)
    expected = model.predict_proba(X)
    joblib.dump(model, tmp_path / "model.joblib")
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        assert np.array_equal(copied.predict_proba(X), expected)
        copied.partial_fit(X, y)
    assert np.array_equal(model.predict_proba(X), expected)
    with pytest.raises(NotFittedError):
        clone(model).predict(X)
    assert clone(model).get_params() == model.get_params()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(iris, library):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    X, y = iris
    names = ["a", "b", "c", "d"]
    frame = frames.DataFrame({name: X[:, i] for i, name in enumerate(names)})
    model = BatchNormMLPClassifier(**FAST).fit(frame, y)
    # an earlier version of scikit-learn may not know this version's frames
    theirs = StandardScaler().fit(frame)
    assert hasattr(model, "feature_names_in_") == hasattr(theirs, "feature_names_in_")
    plain = BatchNormMLPClassifier(**FAST).fit(X, y)
    assert np.array_equal(model.predict_proba(frame), plain.predict_proba(X))
    if hasattr(theirs, "feature_names_in_"):
        assert list(model.feature_names_in_) == names
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(frame[["d", "c", "b", "a"]])
    scaler = StandardScaler().set_output(transform=library)
    piped = make_pipeline(scaler, BatchNormMLPClassifier(**FAST)).fit(frame, y)
    assert piped.score(frame, y) > 0.85


def test_sparse_is_refused_with_the_reason(iris):
    from scipy.sparse import csr_matrix

    with pytest.raises(TypeError, match="Sparse data was passed"):
        BatchNormMLPClassifier().fit(csr_matrix(iris[0]), iris[1])


def test_bytes_stay_bytes(rng):
    X = rng.integers(0, 256, (60, 12), np.uint8)
    y = X[:, 0] > 100
    first = BatchNormMLPClassifier(**FAST).fit(X, y)
    second = BatchNormMLPClassifier(**FAST).fit(X.astype(np.float32), y)
    assert np.array_equal(first.model_.params, second.model_.params)
    p = first.predict_proba(X).astype(np.float32)
    assert np.array_equal(p, second.predict_proba(X.astype(np.float32)))


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes\[1\]: expected an integer from 1"),
        ({"activation": "swish"}, "activation: expected one of"),
        ({"solver": "lion"}, "solver: expected one of"),
        ({"learning_rate": "fast"}, "learning_rate: expected one of"),
        ({"learning_rate_init": 0.0}, "learning_rate_init: expected a finite number"),
        ({"alpha": -1}, "alpha: expected a finite number"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1"),
        ({"hidden_layer_sizes": None}, "hidden_layer_sizes: expected an int, or a sequence"),
        ({"verbose": "yes"}, "verbose: expected True, False or an int"),
        ({"class_weight": {0: float("nan"), 1: 1, 2: 1}}, "class_weight: expected finite numbers"),
        ({"class_weight": {0: 0, 1: 0, 2: 0}}, "class_weight: expected finite numbers"),
        ({"batch_size": "large"}, "batch_size: expected one of"),
        ({"max_iter": 0}, "max_iter: expected an integer of at least 1"),
        ({"tol": float("nan")}, "tol: expected a finite number"),
        ({"momentum": 1.0}, "momentum: expected a finite number"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected a finite number"),
        ({"shuffle": 1}, "shuffle: expected True or False"),
        ({"n_threads": 0}, "n_threads: expected an integer of at least 1"),
        ({"dtype": "float16"}, "dtype: expected one of"),
        ({"dropout": 1.0}, "dropout: expected a finite number"),
        ({"n_iter_no_change": 0}, "n_iter_no_change: expected an integer"),
    ],
)
def test_mistakes_leave_an_estimator_as_it_was(iris, options, message):
    X, y = iris
    model = BatchNormMLPClassifier(**FAST).fit(X, y)
    before = {name: value for name, value in vars(model).items() if name.endswith("_")}
    with pytest.raises(ValueError, match=message):  # of wrong types, too, as in scikit-learn
        model.set_params(**options).fit(X[:, :2], y)
    after = {name: value for name, value in vars(model).items() if name.endswith("_")}
    assert before == after
    assert model.set_params(dtype="float32", n_threads=None).predict(X).shape == y.shape


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


def test_another_solver_begins_with_moments_of_its_own(iris):
    X, y = iris
    options = {**FAST, "warm_start": True}
    model = BatchNormMLPClassifier(**options, solver="sgd", tol=0).fit(X, y)
    last = model.loss_curve_[-1]
    model.set_params(solver="adam", learning_rate_init=1e-3, max_iter=5).fit(X, y)
    assert model.model_.steps == 5
    assert max(model.loss_curve_[-5:]) < 1.1 * last


@pytest.mark.parametrize("batch_norm", [False, True])
def test_weights_scale_the_inputs_of_plain_networks_alone(batch_norm):
    rng = np.random.default_rng(0)
    x = np.c_[1e4 + rng.standard_normal((100_000, 2)), np.full(100_000, 0.1)].astype(np.float32)
    y = x[:, 0] > 1e4
    options = {"hidden_layer_sizes": 4, "max_iter": 1, "random_state": 0, "batch_norm": batch_norm}
    for weight in (np.ones(len(x)), rng.uniform(0.5, 2, len(x))):
        scaling = BatchNormMLPClassifier(**options).fit(x, y, weight).model_.scaling
        wide = x.astype(np.float64)
        weight = None if batch_norm else weight
        mean = np.average(wide, axis=0, weights=weight)
        std = np.sqrt(np.average((wide - mean) ** 2, axis=0, weights=weight))
        np.testing.assert_allclose(scaling.center, mean, rtol=1e-6)
        np.testing.assert_allclose(scaling.scale[:2], 1 / std[:2], rtol=1e-5)
        assert scaling.scale[2] == 1, "a constant"


@pytest.mark.filterwarnings("ignore:A column-vector y")
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_coefs_of_a_regressor_are_the_network_that_predicts(diabetes, shape):
    X, y = diabetes
    y = 1e3 + (np.c_[y, -y][:, : shape[0]] if shape else y)
    model = BatchNormMLPRegressor(**FAST, dtype="float64").fit(X, y)
    hidden = np.maximum(X @ model.coefs_[0] + model.intercepts_[0], 0)
    said = hidden @ model.coefs_[1] + model.intercepts_[1]
    np.testing.assert_allclose(said.squeeze(), model.predict(X), rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-200, 1.0, 1e160])
def test_targets_of_any_size(diabetes, factor):
    X, y = diabetes
    model = BatchNormMLPRegressor(**FAST, dtype="float64").fit(X, y * factor)
    plain = BatchNormMLPRegressor(**FAST, dtype="float64").fit(X, y)
    np.testing.assert_allclose(model.predict(X) / factor, plain.predict(X), rtol=1e-6)


def test_a_first_part_of_constant_targets(diabetes):
    X, y = diabetes
    model = BatchNormMLPRegressor(random_state=0, learning_rate_init=0.01)
    model.partial_fit(X[:50], np.full(50, 0.1))
    assert (model.target_mean_, model.target_scale_) == (0.1, 1.0)
    y = (y - y.mean()) / y.std()
    for _ in range(100):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.5


def test_classes_of_one_sample_and_early_stopping():
    X, y = load_digits(return_X_y=True)
    y = y.copy()
    y[0] = 17
    model = BatchNormMLPClassifier(**FAST, early_stopping=True).fit(X[:80], y[:80])
    assert 17 in model.classes_


def test_minibatches_of_one_are_two(iris):
    X, y = iris
    with pytest.warns(UserWarning, match="batch norm needs 2 samples"):
        model = BatchNormMLPClassifier(**{**FAST, "max_iter": 1}, batch_size=1).fit(X, y)
    assert model.model_.steps == 75


def test_logarithms_of_small_probabilities():
    X, y = load_breast_cancer(return_X_y=True)
    model = BatchNormMLPClassifier(random_state=0, learning_rate_init=0.05).fit(X, y)
    logits = model.model_.predict_logits(X).astype(np.float64)[:, 0]
    log_p, p = model.predict_log_proba(X), model.predict_proba(X)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(log_p[:, 1], -np.logaddexp(0, -logits), rtol=1e-5, atol=1e-40)
    np.testing.assert_allclose(log_p[:, 0], -np.logaddexp(0, logits), rtol=1e-5, atol=1e-40)
    assert p.min() < 1e-15


def test_poisson_is_refused():
    with pytest.raises(ValueError, match="loss: expected one of"):
        BatchNormMLPRegressor(loss="poisson").fit([[0.0], [1.0]], [0.0, 1.0])


@pytest.mark.parametrize("raises", [False, True])
def test_ctrl_c_keeps_what_was_learned(iris, raises):
    """With the handler of fastbn, and with one of somebody else's that raises at once."""
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


class TestCallbacks:
    """scikit-learn's protocol, from version 1.9 on."""

    @pytest.fixture(autouse=True)
    def _protocol(self):
        pytest.importorskip("sklearn.callback", reason="this scikit-learn has no callbacks")

    def test_scores_of_every_epoch(self, iris):
        from sklearn.callback import ScoringMonitor

        X, y = iris
        monitor = ScoringMonitor(scoring="accuracy")
        model = BatchNormMLPClassifier(**FAST).set_callbacks(monitor).fit(X, y)
        rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
        assert len(rows) == model.n_iter_
        assert rows[-1]["accuracy"] == model.score(X, y)
        assert rows[0]["accuracy"] < rows[-1]["accuracy"]

    def test_progress_bar(self, iris, capsys):
        from sklearn.callback import ProgressBar

        model = BatchNormMLPRegressor(**FAST).set_callbacks(ProgressBar())
        model.fit(*iris)
        assert "BatchNormMLPRegressor" in capsys.readouterr().out

    def test_a_callback_may_stop_the_fit(self, iris):
        calls = []

        class Stop:
            def setup(self, estimator, context):
                calls.append("setup")

            def on_fit_task_begin(self, estimator, context):
                calls.append(f"begin {context.task_name}")

            def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
                calls.append(f"end {context.task_name}")
                fitted_estimator.predict(iris[0])
                return calls.count("end epoch") == 3

            def teardown(self, estimator, context):
                calls.append("teardown")

        model = BatchNormMLPClassifier(**FAST).set_callbacks(Stop()).fit(*iris)
        assert model.n_iter_ == 3
        epochs = ["begin epoch", "end epoch"] * 3
        assert calls == ["setup", "begin fit", *epochs, "end fit", "teardown"]


@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
def test_the_example_of_the_docstring(kind):
    (example,) = doctest.DocTestFinder(recurse=False).find(kind)
    done = doctest.DocTestRunner().run(example)
    assert done.attempted > 3
    assert done.failed == 0


def test_an_earlier_version_without_callbacks():
    code = (
        "import sys, warnings, sklearn.neural_network\n"
        "sys.modules['sklearn.callback'] = None\n"
        "vars(sklearn).pop('callback', None)\n"
        "from fastbn.sklearn import BatchNormMLPClassifier, _callbacks\n"
        "warnings.simplefilter('ignore')\n"
        "assert _callbacks._callback is None\n"
        "model = BatchNormMLPClassifier(max_iter=2).fit([[0.0], [1.0], [2.0]], [0, 1, 1])\n"
        "print(model.n_iter_)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
