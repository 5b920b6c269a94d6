"""The estimators are drop-in replacements: parameters, attributes, targets, tools."""

from __future__ import annotations

import doctest
import inspect
import pickle
from typing import get_args

import numpy as np
import pytest
from estimators import FAST, QUIET
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastbn.options import Activation
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

pytestmark = QUIET

PAIRS = [(BatchNormMLPClassifier, MLPClassifier), (BatchNormMLPRegressor, MLPRegressor)]


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
    """With the same initial weights, the same minibatches lead to the same weights."""
    X, y = iris if kind in ("binary", "multiclass", "multilabel") else diabetes
    y = {"binary": y > 0, "multilabel": np.c_[y > 0, y > 1, y == 1], "several": np.c_[y, -y]}.get(
        kind, y
    )
    regression = kind in ("one", "several")
    if regression:  # scikit-learn does not scale targets
        y = (y - y.mean(axis=0)) / y.std(axis=0)
    # one minibatch, because scikit-learn's penalty is larger in a smaller last one
    shared = {"hidden_layer_sizes": 9, "shuffle": False, "random_state": 0, "batch_size": len(X)}
    shared |= options
    shared["epsilon"] = 1e-12  # scikit-learn adds epsilon before Adam's bias correction
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
    if shared.get("alpha") == 0 and kind != "several":  # ours is summed over the outputs
        assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-5)


@pytest.mark.parametrize("activation", get_args(Activation))
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
    # an older scikit-learn may not support data frames of this version
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes\[1\]: expected an integer from 1"),
        ({"activation": "swish"}, "activation: expected one of"),
        ({"solver": "other"}, "solver: expected one of"),
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
    with pytest.raises(ValueError, match=message):  # also for wrong types, as in scikit-learn
        model.set_params(**options).fit(X[:, :2], y)
    after = {name: value for name, value in vars(model).items() if name.endswith("_")}
    assert before == after
    assert model.set_params(dtype="float32", n_threads=None).predict(X).shape == y.shape


@pytest.mark.parametrize("batch_norm", [False, True])
def test_weights_count_in_the_scaling_of_plain_networks_only(batch_norm):
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


@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
def test_the_example_of_the_docstring(kind):
    (example,) = doctest.DocTestFinder(recurse=False).find(kind)
    done = doctest.DocTestRunner().run(example)
    assert done.attempted > 3
    assert done.failed == 0
