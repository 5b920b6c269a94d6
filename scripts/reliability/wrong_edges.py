"""Wrong calls of the estimators for scikit-learn and of what PyTorch is given."""

from __future__ import annotations

import functools
import importlib
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from wrong_subject import Subject
from wrong_values import COUNT, FLAG, NAME, NO_NUMBERS, POSITIVE, SHARE, Bad, of, with_one

# -- scikit-learn, whose own checks see the data first -------------------------------------------

CLASSIFIER, REGRESSOR = "BatchNormMLPClassifier", "BatchNormMLPRegressor"
SMALL = {"max_iter": 1, "hidden_layer_sizes": (3,), "random_state": 0}

DATA: Bad = {name: NO_NUMBERS[name] for name in ("complex", "ragged", "unreadable")} | {
    "None": lambda a: None,
    "one dimension": lambda a: a[0],
    "three dimensions": lambda a: a[None],
    "a number": lambda a: 1.0,
    "no samples": lambda a: a[:0],
    "nan": with_one(np.nan),
    "infinite": with_one(np.inf),
    "too large, even scaled": lambda a: np.where(np.asarray(a) > 0, 1.7e308, 0.0),
    "one sample less": lambda a: a[:-1],
    "words": lambda a: [["a", "b"]] * len(a),
}
FEATURES: Bad = {"a feature less": lambda a: a[:, :-1], "no features": lambda a: a[:, :0]}
TABLES: dict[str, tuple[str, str, Any]] = {
    "a sparse matrix": ("scipy", "scipy.sparse", lambda module, a: module.csr_array(a)),
    "a table of names": (
        "pandas", "pandas", lambda module, a: module.DataFrame(a).assign(name="a"),
    ),
    "a table with gaps": (
        "pandas", "pandas", lambda module, a: module.DataFrame(a).mask(a > 0),
    ),
}  # fmt: skip
WEIGHTS: Bad = {
    "negative": lambda a: -a,
    "nan": with_one(np.nan),
    "infinite": with_one(np.inf),
    "zeros": np.zeros_like,
    "too few": lambda a: a[:-1],
    "a column": lambda a: a[:, None],
    "words": lambda a: ["a"] * len(a),
    "ragged": NO_NUMBERS["ragged"],
}
# scikit-learn's messages name them somewhere
SAYS = {
    "X": r"(?s).*\bX\b",
    "y": r"(?s).*\by\b",
    "sample_weight": "(?s).*sample_weight",
    "random_state": ".*random_state",
    "class_weight": ".*class_weight",
}
CLASSES: Bad = {
    "too few": lambda y: y[:-1],
    "None": lambda y: None,
    "nan": with_one(np.nan),
    "halves": lambda y: y + 0.5,
    "two columns of classes": lambda y: np.stack([y, y + 1], axis=1),
    "ragged": NO_NUMBERS["ragged"],
    "three dimensions": lambda y: y[:, None, None],
    "complex": NO_NUMBERS["complex"],
}
NUMBERS: Bad = {
    "too few": lambda y: y[:-1],
    "None": lambda y: None,
    "nan": with_one(np.nan),
    "infinite": with_one(np.inf),
    "words": lambda y: ["a"] * len(y),
    "ragged": NO_NUMBERS["ragged"],
    "three dimensions": lambda y: y[:, None, None],
}
PARAMETERS: dict[str, Bad] = {
    "hidden_layer_sizes": of("3", 0, -1, (3, 0), (3.0,), None, 1.5, (2**40,)),
    "activation": NAME | of(None),
    "solver": NAME | of(None),
    "alpha": POSITIVE,
    "batch_size": COUNT | of(None, "all"),
    "learning_rate": NAME | of(None),
    "learning_rate_init": POSITIVE | of(0.0),
    "power_t": POSITIVE,
    "max_iter": COUNT | of(None),
    "shuffle": FLAG,
    "random_state": of("1", -1, 1.5, [1.5]),
    "tol": POSITIVE,
    "verbose": of("yes", None, 1.5),
    "warm_start": FLAG,
    "momentum": SHARE | of(1.0),
    "nesterovs_momentum": FLAG,
    "early_stopping": FLAG,
    "validation_fraction": SHARE | of(1.0),
    "beta_1": SHARE | of(1.0),
    "beta_2": SHARE | of(1.0),
    "epsilon": POSITIVE | of(0.0),
    "n_iter_no_change": {what: COUNT[what] for what in COUNT} | of(None),
    "batch_norm": FLAG,
    "batch_norm_output": FLAG,
    "batch_norm_eps": POSITIVE,
    "batch_norm_momentum": SHARE,
    "negative_slope": SHARE,
    "input_normalization": NAME,
    "dropout": SHARE | of(1.0),
    "max_norm": of(0.0, -1.0, "1", True, np.nan),
    "schedule": of("linear", 3, ["cosine"]),
    "dtype": of("float16", "int32", None, 3),
    "n_threads": of(0, -1, 1.5, "1", True),
}
OF_CLASSES = {
    "label_smoothing": SHARE,
    "class_weight": of("equal", 3, {0: -1.0}, {0: np.nan}, {0: 0, 1: 0, 2: 0}, [1, 2, 3]),
}


@functools.cache
def pickled(kind: str, *, is_fitted: bool) -> bytes:
    """Return a small estimator."""
    estimator = getattr(importlib.import_module("fastbn.sklearn"), kind)(**SMALL)
    if is_fitted:
        x, y = samples()
        estimator.partial_fit(x, y, **({"classes": [0, 1, 2]} if kind == CLASSIFIER else {}))
    return pickle.dumps(estimator)


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Return some training data."""
    x = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    return x, np.arange(12) % 3


def estimating(
    kind: str, *names: str, is_fitted: bool = True
) -> Callable[[pathlib.Path], dict[str, Any]]:
    """Return what makes an estimator and those of the data that are named."""

    def make(folder: pathlib.Path) -> dict[str, Any]:
        x, y = samples()
        known = {"X": x, "y": y, "sample_weight": np.ones(12), "classes": np.arange(3)}
        estimator = pickle.loads(pickled(kind, is_fitted=is_fitted))
        return {"self": estimator, **{name: known[name] for name in names}}

    return make


def method(name: str) -> Callable[..., Any]:
    """Return what calls a method."""
    return lambda self, **arguments: getattr(self, name)(**arguments)


def fit_with(self: Any, X: Any, y: Any, **parameters: Any) -> None:
    """Set parameters and fit."""
    before = self.get_params()
    try:
        self.set_params(**parameters).fit(X, y)
    finally:
        self.set_params(**before)


def tables(name: str, kind: str) -> list[Subject]:
    """Return the rows of X that is of another library."""
    return [
        Subject(
            f"{kind}.{name}",
            method(name),
            estimating(kind, "X", *(("y",) if name == "fit" else ())),
            {"X": {what: lambda a, m=module, f=change: f(importlib.import_module(m), a)}},
            needs=("sklearn", package),
            says=SAYS,
        )
        for what, (package, module, change) in TABLES.items()
    ]


ESTIMATORS = [
    subject
    for kind, targets, parameters in (
        (CLASSIFIER, CLASSES, PARAMETERS | OF_CLASSES),
        (REGRESSOR, NUMBERS, PARAMETERS | {"loss": NAME | of(None)}),
    )
    for subject in [
        *[
            Subject(
                f"{kind}.{name}",
                method(name),
                estimating(kind, "X", "y", "sample_weight", is_fitted=True),
                {
                    "X": DATA | (FEATURES if name == "partial_fit" else {}),
                    "y": targets,
                    "sample_weight": WEIGHTS,
                },
                says=SAYS,
                needs=("sklearn",),
            )
            for name in ("fit", "partial_fit")
        ],
        Subject(
            f"{kind}(...).fit",
            fit_with,
            estimating(kind, "X", "y", is_fitted=True),
            parameters,
            says=SAYS,
            needs=("sklearn",),
        ),
        *[
            Subject(
                f"{kind}.{name}",
                method(name),
                estimating(kind, "X", *(("y",) if name == "score" else ())),
                {"X": {k: v for k, v in DATA.items() if k != "one sample less"} | FEATURES},
                says=SAYS,
                needs=("sklearn",),
            )
            for name in (
                "predict", "score",
                *(("predict_proba", "predict_log_proba") if kind == CLASSIFIER else ()),
            )
        ],
        Subject(
            f"{kind}.predict, before fit",
            method("predict"),
            estimating(kind, "X", is_fitted=False),
            {"X": {"good": lambda a: a}},
            says={"X": f"This {kind} instance is not fitted yet"},
            needs=("sklearn",),
        ),
        *tables("fit", kind),
        *tables("predict", kind),
    ]
]  # fmt: skip

SUBJECTS = [
    *ESTIMATORS,
    Subject(
        f"{CLASSIFIER}.partial_fit",
        method("partial_fit"),
        estimating(CLASSIFIER, "X", "y", "classes"),
        {
            "classes": of([0, 1], [0, 1, 2, 3], ["a", "b", "c"], 3, [[0, 1], [2, 3]]),
            "y": {"unknown": lambda y: y + 1, "words": lambda y: np.array(["a", "b", "c"] * 4)},
        },
        says={"classes": ".*classes", "y": r".*\by\b"},
        needs=("sklearn",),
    ),
    Subject(
        f"{CLASSIFIER}.partial_fit, the first",
        method("partial_fit"),
        estimating(CLASSIFIER, "X", "y", "classes", is_fitted=False),
        {"classes": of(None, [0, 1], 3, [[0, 1], [2, 3]])},
        says={"classes": ".*classes"},
        needs=("sklearn",),
    ),
]
