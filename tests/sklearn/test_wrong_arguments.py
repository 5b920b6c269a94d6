"""Estimators with one wrong argument raise an error that names it and change nothing."""

from __future__ import annotations

import importlib
import pickle

import numpy as np
import pytest
import wrong
from hypothesis import given
from hypothesis import strategies as st
from wrong import (
    BATCH,
    BELOW_1,
    COUNT,
    CUT,
    FLAG,
    NAME,
    NO_NUMBERS,
    NO_WEIGHTS,
    NONE,
    NORM,
    NOT_FINITE,
    POSITIVE,
    SHARE,
    changed,
    of,
    value,
)

pytest.importorskip("sklearn")

import fastbn.sklearn

CLASSIFIER, REGRESSOR = "BatchNormMLPClassifier", "BatchNormMLPRegressor"
KINDS = (CLASSIFIER, REGRESSOR)
SMALL = {"max_iter": 1, "hidden_layer_sizes": (3,), "random_state": 0}

NO_ARRAYS = {name: NO_NUMBERS[name] for name in ("complex", "ragged", "unreadable")}
WORDS = changed(lambda a, words: words * len(a), st.lists(st.sampled_from("abc"), min_size=1))
DATA = (
    NO_ARRAYS
    | NOT_FINITE
    | NONE
    | {
        "one dimension": BATCH["one dimension"],
        "three dimensions": changed(lambda a: a[None]),
        "a number": value(st.floats(0, 1)),
        "no samples": BATCH["no samples"],
        "too large, even scaled": changed(lambda a: np.where(np.asarray(a) > 0, 1.7e308, 0.0)),
        "words": changed(lambda a: [["a", "b"]] * len(a)),
    }
)
SAMPLE_LESS = {"some samples less": CUT["too short"]}
FEATURES = {"a feature less": changed(lambda a: a[:, :-1]), "no features": BATCH["no features"]}
TARGETS = (
    CUT
    | NONE
    | {
        "nan": NOT_FINITE["nan"],
        "ragged": NO_NUMBERS["ragged"],
        "three dimensions": changed(lambda y: y[:, None, None]),
    }
)
CLASSES = TARGETS | {
    "fractions": changed(lambda y, by: y + by, st.floats(0.1, 0.9)),
    "two columns of classes": changed(lambda y: np.stack([y, y + 1], axis=1)),
    "complex": NO_NUMBERS["complex"],
}
NUMBERS = TARGETS | {"infinite": NOT_FINITE["infinite"], "words": changed(lambda y: ["a"] * len(y))}
WEIGHTS = NO_WEIGHTS | {"words": WORDS, "ragged": NO_NUMBERS["ragged"]}
PARAMETERS = {
    "hidden_layer_sizes": of("3", 0, -1, (3, 0), (3.0,), None, 1.5, (2**40,)),
    "activation": NAME | NONE,
    "solver": NAME | NONE,
    "alpha": POSITIVE,
    "batch_size": COUNT | of(None, "all"),
    "learning_rate": NAME | NONE,
    "learning_rate_init": POSITIVE | of(0.0),
    "power_t": POSITIVE,
    "max_iter": COUNT | NONE,
    "shuffle": FLAG,
    "random_state": of("1", -1, 1.5, [1.5]),
    "tol": POSITIVE,
    "verbose": of("yes", None, 1.5),
    "warm_start": FLAG,
    "momentum": BELOW_1,
    "nesterovs_momentum": FLAG,
    "early_stopping": FLAG,
    "validation_fraction": BELOW_1,
    "beta_1": BELOW_1,
    "beta_2": BELOW_1,
    "epsilon": POSITIVE | of(0.0),
    "n_iter_no_change": COUNT | NONE,
    "batch_norm": FLAG,
    "batch_norm_output": FLAG,
    "batch_norm_eps": POSITIVE,
    "batch_norm_momentum": SHARE,
    "negative_slope": SHARE,
    "input_normalization": NAME,
    "dropout": BELOW_1,
    "max_norm": NORM,
    "schedule": of("linear", 3, ["cosine"]),
    "dtype": of("float16", "int32", None, 3),
    "n_threads": COUNT,
    "label_smoothing": SHARE,
    "class_weight": of("equal", 3, {0: -1.0}, {0: np.nan}, {0: 0, 1: 0, 2: 0}, [1, 2, 3]),
    "loss": NAME | NONE,
}

# scikit-learn's messages name these, but not at the start.
SAYS = {
    **{name: rf"(?s).*\b{name}\b" for name in ("X", "y")},
    **{
        name: f"(?s).*{name}"
        for name in ("sample_weight", "random_state", "class_weight", "classes")
    },
}


def samples():
    x = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    return {"X": x, "y": np.arange(12) % 3, "sample_weight": np.ones(12), "classes": np.arange(3)}


def pickled(kind, *, fitted):
    estimator = getattr(fastbn.sklearn, kind)(**SMALL)
    if fitted:
        names = ("X", "y", "classes") if kind == CLASSIFIER else ("X", "y")
        estimator.partial_fit(**{name: samples()[name] for name in names})
    return pickle.dumps(estimator)


PICKLED = {
    (kind, fitted): pickled(kind, fitted=fitted) for kind in KINDS for fitted in (True, False)
}


def arguments(kind, *names, fitted=True):
    """Return a function that makes an estimator and the named data."""
    return lambda: {
        "self": pickle.loads(PICKLED[kind, fitted]),
        **{name: samples()[name] for name in names},
    }


def method(name):
    return lambda self, **given: getattr(self, name)(**given)


def fit_with(self, X, y, **parameters):
    before = self.get_params()
    try:
        self.set_params(**parameters).fit(X, y)
    finally:
        self.set_params(**before)


def check(data, call, good, argument, kinds):
    wrong.assert_refused(data, call, good, argument, kinds, says=SAYS.get(argument))


@pytest.mark.parametrize("argument", ["X", "y", "sample_weight"])
@pytest.mark.parametrize("name", ["fit", "partial_fit"])
@pytest.mark.parametrize("kind", KINDS)
@wrong.examples
@given(data=st.data())
def test_wrong_data_to_train_on(kind, name, argument, data):
    kinds = {
        "X": DATA | SAMPLE_LESS | (FEATURES if name == "partial_fit" else {}),
        "y": CLASSES if kind == CLASSIFIER else NUMBERS,
        "sample_weight": WEIGHTS,
    }
    good = arguments(kind, "X", "y", "sample_weight")
    check(data, method(name), good, argument, kinds[argument])


EACH_PARAMETER = [
    (kind, name)
    for kind in KINDS
    for name in wrong.parameters(getattr(fastbn.sklearn, kind))
    if name != "max_fun"  # which is ignored
]


@pytest.mark.parametrize(("kind", "parameter"), EACH_PARAMETER)
@wrong.examples
@given(data=st.data())
def test_a_wrong_parameter_is_refused_by_fit(kind, parameter, data):
    check(data, fit_with, arguments(kind, "X", "y"), parameter, PARAMETERS[parameter])


PREDICTIONS = [
    *[(kind, name) for kind in KINDS for name in ("predict", "score")],
    (CLASSIFIER, "predict_proba"),
    (CLASSIFIER, "predict_log_proba"),
]


@pytest.mark.parametrize(("kind", "name"), PREDICTIONS)
@wrong.examples
@given(data=st.data())
def test_wrong_data_to_predict(kind, name, data):
    good = arguments(kind, "X", *(("y",) if name == "score" else ()))
    check(data, method(name), good, "X", DATA | FEATURES)


TABLES = {
    "a sparse matrix": ("scipy.sparse", lambda module, a: module.csr_array(a)),
    "a table of names": ("pandas", lambda module, a: module.DataFrame(a).assign(name="a")),
    "a table with gaps": ("pandas", lambda module, a: module.DataFrame(a).mask(a > 0)),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ["fit", "predict"])
@pytest.mark.parametrize("kind", KINDS)
@wrong.examples
@given(data=st.data())
def test_tables_that_are_not_numbers(kind, name, table, data):
    module, make = TABLES[table]
    pytest.importorskip(module)
    good = arguments(kind, "X", *(("y",) if name == "fit" else ()))
    spoil = changed(lambda a: make(importlib.import_module(module), a))
    check(data, method(name), good, "X", {table: spoil})


@wrong.examples
@given(data=st.data())
def test_wrong_classes(data):
    call, good = method("partial_fit"), arguments(CLASSIFIER, "X", "y", "classes")
    wrong_classes = of([0, 1], [0, 1, 2, 3], ["a", "b", "c"], 3, [[0, 1], [2, 3]])
    check(data, call, good, "classes", wrong_classes)
    unknown = changed(lambda y, by: y + by, st.integers(1, 9))
    words = changed(lambda y: np.array(["a", "b", "c"] * 4))
    check(data, call, good, "y", {"unknown": unknown, "words": words})
    first = arguments(CLASSIFIER, "X", "y", "classes", fitted=False)
    check(data, call, first, "classes", of(None, [0, 1], 3, [[0, 1], [2, 3]]))


@pytest.mark.parametrize("kind", KINDS)
def test_before_fit(kind):
    estimator = pickle.loads(PICKLED[kind, False])
    before = wrong.fingerprint(estimator)
    with pytest.raises(ValueError, match=f"^This {kind} instance is not fitted yet"):
        estimator.predict(samples()["X"])
    assert wrong.fingerprint(estimator) == before
