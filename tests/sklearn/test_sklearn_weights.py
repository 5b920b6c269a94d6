"""Weights of samples and of classes: they count in the loss, and rare classes are learned."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import get_args

import numpy as np
import pytest
from estimators import QUIET
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from fastbn.options import DecoupledOptimizer
from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

pytestmark = QUIET

FAST = {
    "hidden_layer_sizes": 8, "max_iter": 5, "random_state": 0, "learning_rate_init": 0.01,
    "batch_size": 32,
}  # fmt: skip


@pytest.fixture
def samples(rng):
    """Return samples (300, 5) of three classes."""
    X = rng.standard_normal((300, 5))
    return X, np.digitize(X[:, 0], [-0.3, 1.0])


def rare(kind, seed, n):
    """Return samples, 2 % of which have the last class or label."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 6))
    score = X[:, 0] + 0.5 * X[:, 1] * X[:, 2] + 0.8 * rng.standard_normal(n)
    is_rare, other = score > 2.8, X[:, 3] > 0
    if kind == "labels":
        return X, np.c_[other, is_rare].astype(int)
    return X, np.where(is_rare, 2, other) if kind == "three" else is_rare.astype(int)


@pytest.mark.parametrize("way", ["fit", "partial_fit"])
@pytest.mark.parametrize("kind", ["two", "three", "labels"])
def test_a_rare_class_is_learned_as_well_as_by_scikit_learn(kind, way):
    """With weights in the statistics of minibatches the AUC was 0.2 to 0.3 lower."""
    X_test, y_test = rare(kind, 100, 8000)
    is_rare = y_test[:, 1] if kind == "labels" else y_test == y_test.max()
    differences = []
    for seed in range(3):
        X, y = rare(kind, seed, 4000)
        weight = compute_sample_weight("balanced", y)
        classes = np.arange(2) if kind == "labels" else np.unique(y)
        options = {**FAST, "hidden_layer_sizes": 32, "batch_size": 16, "learning_rate_init": 0.003}
        options["random_state"] = seed
        scores = []
        for model in (BatchNormMLPClassifier(**options), MLPClassifier(**options)):
            if way == "fit":
                model.fit(X, y, sample_weight=weight)
            else:
                for start in [*range(0, 4000, 500)] * 5:
                    part = slice(start, start + 500)
                    model.partial_fit(X[part], y[part], weight[part], classes)
            scores.append(roc_auc_score(is_rare, model.predict_proba(X_test)[:, -1]))
        differences.append(scores[0] - scores[1])
    assert np.median(differences) > -0.05


@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
def test_statistics_are_of_the_samples_without_weights(samples, kind):
    """Weights that are equal within each minibatch have no effect."""
    X, y = samples
    weight = np.repeat([1.0, 7.0, 0.25], 100)
    options = {**FAST, "shuffle": False, "batch_size": 100, "alpha": 0.0, "dtype": "float64"}
    plain, weighted = kind(**options).fit(X, y), kind(**options).fit(X, y, weight)
    np.testing.assert_allclose(weighted.model_.running_var, plain.model_.running_var, rtol=1e-9)
    np.testing.assert_allclose(weighted.predict(X), plain.predict(X), rtol=1e-7)
    assert not weighted.model_.config.weighted
    assert weighted.model_.config.unbiased
    if kind is BatchNormMLPRegressor:
        np.testing.assert_allclose(weighted.target_mean_, y.mean())
        np.testing.assert_allclose(weighted.target_scale_, y.std())


@pytest.mark.filterwarnings(
    "ignore:the fit ends worse than the mean"
)  # the target of the heavy sample
def test_one_heavy_sample_leaves_the_statistics_alone(samples):
    X, _ = samples
    weight = np.ones(300)
    weight[7] = 1e6
    model = BatchNormMLPRegressor(**{**FAST, "max_iter": 30}, batch_norm_momentum=1.0)
    model.fit(X, X[:, 0], sample_weight=weight)
    assert model.model_.running_var.min() > 1e-3
    assert model.score(X, X[:, 0]) > 0.5


def test_the_penalty_is_divided_by_samples_and_in_plain_networks_by_weights(samples):
    X, y = samples
    weight = np.full(300, 4.0)
    for batch_norm, expected in ((True, 0.5 / 32), (False, 0.5 / 32 / 4)):
        model = BatchNormMLPClassifier(**FAST, alpha=0.5, batch_norm=batch_norm)
        assert model.fit(X, y, weight).model_.config.weight_decay == expected
    for solver in get_args(DecoupledOptimizer):
        model = BatchNormMLPClassifier(**FAST, alpha=0.5, solver=solver)
        assert model.fit(X, y, weight).model_.config.weight_decay == 0.5


@pytest.mark.parametrize("kind", [BatchNormMLPClassifier, BatchNormMLPRegressor])
def test_samples_without_weight_are_left_out_of_everything(samples, kind):
    """They do not count in the scaling, and every minibatch has some weight."""
    X, y = samples
    weight = np.zeros(300)
    weight[-120:] = np.linspace(1, 2, 120)
    X, y = X.copy(), y.astype(float)
    X[:180], y[:100] = 1e6, 2.0
    options = {**FAST, "batch_size": 8}
    if kind is BatchNormMLPRegressor:
        y[:180] = 1e9
    model = kind(**options).fit(X, y, weight)
    alone = kind(**options).fit(X[180:], y[180:], weight[180:])
    assert np.array_equal(model.model_.params, alone.model_.params)
    with pytest.raises(ValueError, match="sample_weight: .*(non-zero number|some above 0)"):
        model.fit(X, y, np.zeros(300))


def test_a_fit_of_an_earlier_version_continues_without_weights_in_its_statistics(samples):
    X, y = samples
    weight = np.linspace(0.1, 5, 300)
    model = BatchNormMLPClassifier(**FAST, batch_norm_output=True, warm_start=True).fit(X, y)
    model.model_.config = dataclasses.replace(model.model_.config, weighted=True, unbiased=False)
    expected = model.predict_proba(X)
    again = copy.deepcopy(model).fit(X, y, weight)
    assert not again.model_.config.weighted
    assert not again.model_.config.unbiased  # the meaning of running variances stays
    assert again.model_.config.batch_norm_output
    assert len(again.loss_curve_) == 10
    assert np.array_equal(model.predict_proba(X), expected)


# -- weights of classes ----------------------------------------------------------------------------


def test_a_chunk_without_a_class_that_has_a_weight(samples):
    X, y = samples
    some = y != 2
    by_class = BatchNormMLPClassifier(**FAST, class_weight={2: 10, 0: 3})
    by_hand = BatchNormMLPClassifier(**FAST)
    weight = np.array([3.0, 1.0, 10.0])[y]
    for rows in (some, y == 1, np.full(300, True)):
        by_class.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
        by_hand.partial_fit(X[rows], y[rows], weight[rows], classes=[0, 1, 2])
    assert np.array_equal(by_class.model_.params, by_hand.model_.params)
    first = BatchNormMLPClassifier(**FAST, class_weight={2: 10})
    first.partial_fit(X[some], y[some], classes=[0, 1, 2])  # also in the first call


@pytest.mark.parametrize(
    "class_weight", [{0: 1, 7: 2}, {7: 2}, {0: 1, 1: 2, 2: 3, 7: 4}, {0: 5}, {"0": 1}]
)
def test_keys_that_are_not_classes_are_handled_as_in_scikit_learn(samples, class_weight):
    X, y = samples
    told = []
    for model in (SGDClassifier(), BatchNormMLPClassifier(**FAST)):
        for incremental in (False, True):
            model = copy.deepcopy(model).set_params(class_weight=class_weight)
            try:
                model.partial_fit(X, y, classes=[0, 1, 2]) if incremental else model.fit(X, y)
            except ValueError as error:
                told.append(str(error))
            else:
                told.append("")
    assert told[:2] == told[2:]


def test_balanced_weights_are_those_by_hand(samples):
    X, y = samples
    balanced = BatchNormMLPClassifier(**FAST, class_weight="balanced").fit(X, y)
    by_hand = BatchNormMLPClassifier(**FAST).fit(X, y, 300 / 3 / np.bincount(y)[y])
    np.testing.assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), atol=1e-6)


def test_names_of_classes_have_weights(samples):
    X, y = samples
    names = np.array(["a", "b", "rare"])[y]
    model = BatchNormMLPClassifier(**FAST, class_weight={"rare": 10})
    by_hand = BatchNormMLPClassifier(**FAST).fit(X, names, np.where(y == 2, 10.0, 1.0))
    assert np.array_equal(model.fit(X, names).predict_proba(X), by_hand.predict_proba(X))
    model.partial_fit(X[y < 2], names[y < 2])


@pytest.mark.parametrize("class_weight", ["balanced", ["balanced", {0: 1, 1: 2}]])
def test_balanced_is_refused_in_parts(samples, class_weight):
    X, y = samples
    model = BatchNormMLPClassifier(**FAST, class_weight=class_weight)
    y = y if class_weight == "balanced" else np.c_[y > 0, y > 1].astype(int)
    advice = re.escape('dict(zip(classes, compute_class_weight("balanced", classes=classes, y=y)))')
    with pytest.raises(ValueError, match=f"class_weight: .* Pass class_weight={advice}"):
        model.partial_fit(X, y, classes=np.unique(y))
    assert not hasattr(model, "model_")
    model.fit(X, y)
    before = model.model_.params.copy()
    with pytest.raises(ValueError, match="class_weight: expected None or a dict in partial_fit"):
        model.partial_fit(X, y)
    assert np.array_equal(model.model_.params, before)


def test_the_advice_for_balanced_parts_works(samples):
    X, y = samples
    classes = np.unique(y)
    weights = dict(
        zip(classes, compute_class_weight("balanced", classes=classes, y=y), strict=True)
    )
    parts = BatchNormMLPClassifier(**FAST, class_weight=weights, shuffle=False)
    by_hand = BatchNormMLPClassifier(**FAST, shuffle=False)
    weight = compute_sample_weight("balanced", y)
    for start in (0, 150):
        part = slice(start, start + 150)
        parts.partial_fit(X[part], y[part], classes=classes)
        by_hand.partial_fit(X[part], y[part], classes=classes, sample_weight=weight[part])
    np.testing.assert_allclose(parts.model_.params, by_hand.model_.params, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [np.ones(3), [1, 2, 3], (1.0, 2.0, 1.0), "unbalanced", 3, [{0: 1}, 2], {0: "a", 1: 1}],
)
def test_wrong_class_weights(samples, wrong):
    X, y = samples
    model = BatchNormMLPClassifier(**FAST, class_weight=wrong)
    says = "could not" if isinstance(wrong, dict) else "expected .*, got"
    message = f"class_weight: {says}"
    with pytest.raises((TypeError, ValueError), match=message):
        model.fit(X, y)
    with pytest.raises((TypeError, ValueError), match=message):
        model.partial_fit(X, y, classes=np.unique(y))
    for one_column in ([{0: 1}], ["balanced"]):
        with pytest.raises(ValueError, match="class_weight: expected a dict .*, got"):
            model.set_params(class_weight=one_column).fit(X, y)
    assert not hasattr(model, "model_")


def test_labels_have_weights_where_a_part_lacks_one(samples):
    X, y = samples
    Y = np.c_[y > 0, y > 1].astype(int)
    class_weight = [{1: 2}, {0: 0.5, 1: 10}]
    expected = np.where(Y[:, 0], 2.0, 1.0) * np.where(Y[:, 1], 10.0, 0.5)
    model = BatchNormMLPClassifier(**FAST, class_weight=class_weight)
    by_hand = BatchNormMLPClassifier(**FAST)
    for rows in (y == 0, y == 1, y >= 0):
        model.partial_fit(X[rows], Y[rows])
        by_hand.partial_fit(X[rows], Y[rows], expected[rows])
    assert np.array_equal(model.model_.params, by_hand.model_.params)
    order = np.argsort(y, kind="stable")  # the last fold trains without the last label
    scores = cross_val_score(model, X[order], Y[order], cv=3, error_score="raise")
    assert np.isfinite(scores).all()
    stopped = BatchNormMLPClassifier(
        **FAST, class_weight=class_weight, early_stopping=True, validation_fraction=0.5
    )
    assert stopped.fit(X, np.c_[Y[:, 0], np.arange(300) < 2].astype(int)).n_iter_ == 5
    balanced = BatchNormMLPClassifier(**FAST, class_weight="balanced")
    by_hand = BatchNormMLPClassifier(**FAST).fit(X, Y, compute_sample_weight("balanced", Y))
    assert np.array_equal(balanced.fit(X, Y).model_.params, by_hand.model_.params)
    constant = np.c_[Y[:, 0], np.zeros(300, int)]
    assert balanced.fit(X, constant).predict(X).shape == Y.shape
    for wrong in ({1: 2}, [{1: 2}], [{1: 2}] * 3):
        with pytest.raises(ValueError, match="class_weight: expected 'balanced', or a list with"):
            model.set_params(class_weight=wrong).fit(X, Y)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights_of_classes_and_samples_multiply(samples, early_stopping):
    X, y = samples
    weight = np.linspace(0.0, 2, 300)
    options = {**FAST, "early_stopping": early_stopping}
    model = BatchNormMLPClassifier(**options, class_weight={2: 4}).fit(X, y, weight)
    by_hand = BatchNormMLPClassifier(**options).fit(X, y, weight * np.where(y == 2, 4, 1))
    assert np.array_equal(model.model_.params, by_hand.model_.params)
    zeros = BatchNormMLPClassifier(**options, class_weight={1: 0, 0: 0})
    with pytest.raises(ValueError, match="class_weight: expected finite numbers of at least 0"):
        zeros.fit(X, y, (y < 2).astype(float))
