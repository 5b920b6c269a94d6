"""Calls with one wrong argument: an error names it, and nothing changes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import wrong
from hypothesis import given
from hypothesis import strategies as st
from unreadable import MODEL_FILES, write_files
from wrong import (
    BATCH,
    BELOW_1,
    BETAS,
    COUNT,
    FLAG,
    LABELS,
    LAYER_SIZES,
    NAME,
    NO_FLOATS,
    NO_NUMBERS,
    NONE,
    NORM,
    NOT_FINITE,
    ONE_SAMPLE,
    PATH,
    POSITIVE,
    SEED,
    SHARE,
    TARGETS,
    VECTOR,
    WEIGHT,
    changed,
    named,
    of,
    value,
    without,
)

import fastbn
from fastbn import BatchNormMLP, EarlyStopping
from fastbn.fit.plan import minibatch_bounds
from fastbn.plotting import plot_history
from fastbn.profiling import profile_training

LOSSES = ("softmax_cross_entropy", "sigmoid_cross_entropy", "squared_error")
BEYOND_SEEDS = of(2**32)

X = (
    NO_NUMBERS
    | NOT_FINITE
    | {
        "None": NO_FLOATS["None"],
        "one dimension": BATCH["one dimension"],
        "three dimensions": changed(lambda a: a[None]),
        "a number": BATCH["a number"],
        "a feature less": changed(lambda a: a[:, :-1]),
        "turned": changed(lambda a: a.T),
        "too large": VECTOR["too large"],
    }
)
NO_SAMPLES = {"no samples": BATCH["no samples"]}
TO_TRAIN = (
    without(X, "too large")
    | NO_SAMPLES
    | ONE_SAMPLE
    | {"too large, even scaled": changed(lambda a: np.copysign(1.7e308, a.astype(np.float64)))}
)
NUMBERS = TARGETS | NOT_FINITE | {"two columns": changed(lambda a: np.stack([a, a], axis=1))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


def samples(loss):
    x = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    return x, np.arange(12) % 3 if loss == LOSSES[0] else (x[:, 0] > 0) * 1.0


def small(loss=LOSSES[0], *, fitted=True):
    """Return a pickled model with three classes, or with one output."""
    model = BatchNormMLP(
        (4, 5, 3 if loss == LOSSES[0] else 1), loss=loss, input_normalization="zscore"
    )
    if fitted:
        model.partial_fit(*samples(loss))
    return pickle.dumps(model)


FITTED = {loss: small(loss) for loss in LOSSES}
NEW = {loss: small(loss, fitted=False) for loss in LOSSES}


def arguments(pickled, loss=LOSSES[0], *, y=True, **more):
    """Return a function that makes the arguments of a method: the model, data, and more."""

    def make():
        x, targets = samples(loss)
        return {"self": pickle.loads(pickled[loss]), "X": x, **({"y": targets} if y else {})} | more

    return make


def with_attribute(name, value):
    model = pickle.loads(FITTED[LOSSES[0]])
    setattr(model, name, value)
    return model


# -- the model's own arguments ---------------------------------------------------------------------

CONFIGURATION = {
    "layer_sizes": LAYER_SIZES,
    "activation": NAME | NONE,
    "negative_slope": SHARE,
    "batch_norm": FLAG,
    "batch_norm_output": FLAG,
    "eps": POSITIVE | {"beyond float32": value(st.floats(4e38, 1e300))},
    "momentum": SHARE,
    "unbiased": FLAG,
    "weighted": FLAG,
    "gradient": NAME | NONE,
    "input_normalization": NAME,
    "target_normalization": NAME,
    "loss": NAME | NONE,
    "label_smoothing": SHARE,
    "optimizer": NAME | NONE,
    "lr": POSITIVE,
    "betas": BETAS,
    "optimizer_eps": POSITIVE,
    "nesterov": FLAG,
    "weight_decay": POSITIVE,
    "decay_vectors": FLAG,
    "max_norm": NORM,
    "dropout": BELOW_1,
    "dtype": of("float16", "int32", int, np.complex64, None, 3, ["float32"]),
    "seed": SEED | BEYOND_SEEDS,
}


@pytest.mark.parametrize("argument", wrong.parameters(BatchNormMLP))
@wrong.examples
@given(data=st.data())
def test_a_wrong_option_is_refused(argument, data):
    wrong.assert_refused(
        data, BatchNormMLP, lambda: {"layer_sizes": (4, 3)}, argument, CONFIGURATION[argument]
    )


# -- methods and other functions -------------------------------------------------------------------

FIT = {"epochs": 1, "batch_size": 4, "progress": False}
WEIGHTED = {"sample_weight": np.ones(12)}
FIT_OPTIONS = {
    "X": TO_TRAIN,
    "y": LABELS,
    "epochs": COUNT | NONE,
    "batch_size": COUNT | of(None, 1),
    "sample_weight": WEIGHT,
    "validation_data": of(3, "Xy", (1, 2, 3), ([[1.0]], [0]), (None, None))
    | {
        "no samples": value(st.just((np.zeros((0, 4)), np.zeros(0, int)))),
        "floating labels": value(st.just((np.zeros((2, 4)), np.zeros(2)))),
        "unknown labels": value(st.just((np.zeros((2, 4)), np.array([0, 3])))),
        "nan": value(st.just((np.full((2, 4), np.nan), np.zeros(2, int)))),
    },
    "shuffle": FLAG,
    "early_stopping": of(0, -1, 1.5, True, "yes", EarlyStopping(), [3])
    | of(EarlyStopping(monitor="val_accuracy")),
    "schedule": of("linear", 3, ["cosine"], 0.1)
    | {
        "negative": value(st.just(lambda step: -1.0)),
        "nan": value(st.just(lambda step: np.nan)),
        "a word": value(st.just(lambda step: "slow")),
        "nothing": value(st.just(lambda step: None)),
    },
    "until_accuracy": of(90, -0.1, "0.9", np.nan, True, np.array([0.5])),
    "callbacks": of(3, [3], [None], "ab", len),
    "progress": of("always", 2, None, 1, np.zeros(3), ["auto"]),
    "check_finite": FLAG,
    "on_divergence": NAME | NONE,
    "checkpoint_every": of(10),
}
CALLS = {
    **{
        method: (getattr(BatchNormMLP, method), arguments(FITTED, y=False), {"X": X})
        for method in ("predict_logits", "predict_proba", "predict")
    },
    "evaluate": (BatchNormMLP.evaluate, arguments(FITTED), {"X": X | NO_SAMPLES, "y": LABELS}),
    "fit": (BatchNormMLP.fit, arguments(NEW, **FIT, **WEIGHTED), FIT_OPTIONS),
    "fit, sigmoid": (
        BatchNormMLP.fit,
        arguments(NEW, LOSSES[1], **FIT),
        {
            "y": NUMBERS
            | {
                "above 1": changed(lambda a, by: a + by, st.floats(0.1, 9)),
                "below 0": changed(lambda a, by: a - by, st.floats(0.1, 9)),
            }
        },
    ),
    "fit, squared error": (
        BatchNormMLP.fit,
        arguments(NEW, LOSSES[2], **FIT),
        {
            "y": NUMBERS | {"too large": VECTOR["too large"]},
            "until_accuracy": of(0.9),
            "early_stopping": of(EarlyStopping(monitor="accuracy")),
        },
    ),
    "partial_fit": (
        BatchNormMLP.partial_fit,
        arguments(NEW, **WEIGHTED),
        {"X": TO_TRAIN, "y": LABELS, "batch_size": COUNT | of(1), "sample_weight": WEIGHT},
    ),
    "train_step": (
        BatchNormMLP.train_step,
        arguments(NEW, **WEIGHTED),
        {"X": TO_TRAIN, "y": LABELS, "sample_weight": WEIGHT},
    ),
    "restore": (
        BatchNormMLP.restore,
        lambda: {
            "self": pickle.loads(FITTED[LOSSES[0]]),
            "snapshot": pickle.loads(FITTED[LOSSES[0]]).snapshot(),
        },
        {
            "snapshot": of(None, 3, {}, [], {"steps": 1})
            | {
                "without a tensor": changed(lambda s: {k: s[k] for k in s if k != "layers.0.beta"}),
                "without steps": changed(lambda s: {k: s[k] for k in s if k != "steps"}),
                "one more": changed(lambda s: {**s, "layers.2.beta": np.zeros(3)}),
                "of another shape": changed(lambda s: {**s, "layers.0.beta": np.zeros(1)}),
                "of strings": changed(lambda s: {**s, "layers.0.beta": np.array(["a"] * 5)}),
                "no array": changed(lambda s: {**s, "layers.0.beta": "a"}),
                "negative steps": changed(
                    lambda s, n: {**s, "steps": n}, st.integers(max_value=-1)
                ),
                "floating steps": changed(lambda s: {**s, "steps": 1.0}),
                "no flag": changed(lambda s: {**s, "input_is_fitted": "yes"}),
                "of another model": changed(lambda s: BatchNormMLP((4, 6, 3)).snapshot()),
            }
        },
    ),
    "label_smoothing of a squared error": (
        lambda label_smoothing: BatchNormMLP(
            (4, 1), loss="squared_error", label_smoothing=label_smoothing
        ),
        dict,
        {"label_smoothing": {"a share": value(st.floats(0.01, 1))}},
    ),
    "save of metadata that are no dict": (
        lambda metadata: with_attribute("metadata", metadata).save("nowhere"),
        dict,
        {"metadata": of(3, None, [1], "a")},
    ),
    "save of metadata that JSON changes": (
        lambda metadata: with_attribute("metadata", {"what": metadata}).save("nowhere"),
        dict,
        {"metadata": of({1}, b"1", np.nan, np.zeros(2), (1, 2), {1: 2}, object)},
    ),
    "EarlyStopping": (
        EarlyStopping,
        dict,
        {
            "patience": COUNT | NONE,
            "monitor": NAME | NONE,
            "min_delta": POSITIVE,
            "restore_best": FLAG,
        },
    ),
    "minibatch_bounds": (
        minibatch_bounds,
        lambda: {"n_samples": 10, "batch_size": 4},
        {"n_samples": COUNT | NONE, "batch_size": COUNT | NONE},
    ),
    "profile_training": (
        profile_training,
        lambda: {"model": pickle.loads(FITTED[LOSSES[0]])},
        {
            "model": of(None, 3, "model") | {"the class": value(st.just(BatchNormMLP))},
            "batch_size": COUNT | of(None, 1),
            "threads": COUNT | of(10**6),
            "steps": COUNT,
        },
    ),
}

# An error about different lengths may name either; checkpoint_every needs a checkpoint.
SAYS = {
    **{(call, "X"): r"(X|y)\b" for call in ("fit", "partial_fit", "train_step")},
    ("fit", "checkpoint_every"): "checkpoint: expected a path",
}
EACH = [(call, argument) for call, (_, _, kinds) in CALLS.items() for argument in kinds]


@pytest.mark.parametrize(("call", "argument"), EACH)
@wrong.examples
@given(data=st.data())
def test_a_wrong_argument_is_refused(call, argument, data):
    function, good, kinds = CALLS[call]
    wrong.assert_refused(
        data, function, good, argument, kinds[argument], says=SAYS.get((call, argument))
    )


def test_every_argument_of_fit_is_drawn():
    drawn = {*FIT_OPTIONS, "checkpoint", "resume"}
    assert drawn == set(wrong.parameters(BatchNormMLP.fit))


# -- calls that write or read files ----------------------------------------------------------------

PICTURES = of(3, ["a"], "a\0b")
IN_A_FOLDER = {
    "save": (
        BatchNormMLP.save,
        lambda folder: {"self": pickle.loads(FITTED[LOSSES[0]]), "path": folder / "new"},
        {"path": PATH | named("folder", "no/such", "text.csv/in")},
    ),
    "load": (
        BatchNormMLP.load,
        lambda folder: {"path": folder / "other.safetensors"},
        {"path": PATH | named(*MODEL_FILES, "folder", "nothing", "text.csv", "text.csv/in")},
    ),
    "fit, with a checkpoint": (
        BatchNormMLP.fit,
        lambda folder: arguments(NEW, checkpoint=folder / "new", **FIT)(),
        {
            "checkpoint": without(PATH, "None") | named("folder", "no/such", "text.csv/in"),
            "checkpoint_every": COUNT,
            "resume": FLAG,
        },
    ),
    "fit, to resume": (
        BatchNormMLP.fit,
        lambda folder: arguments(NEW, checkpoint=folder / "new", resume=True, **FIT)(),
        {"checkpoint": named(*MODEL_FILES, "other.safetensors", "text.csv")},
    ),
    "plot_history": (
        plot_history,
        lambda folder: {
            "history": fastbn.History(loss=[1.0], accuracy=[0.5]),
            "path": folder / "picture.png",
        },
        {
            "history": of(None, 3, {"loss": [1.0]})
            | {"no epochs": value(st.just(fastbn.History()))},
            "path": PICTURES | named("picture.xyz", "no/such.png", "folder.png"),
            "title": of(3, b"a", ["a"]),
        },
    ),
}
EACH_IN_A_FOLDER = [
    (call, argument) for call, (_, _, kinds) in IN_A_FOLDER.items() for argument in kinds
]


@pytest.mark.parametrize(("call", "argument"), EACH_IN_A_FOLDER)
@wrong.examples
@given(data=st.data())
def test_a_wrong_path_is_refused_and_no_file_changes(folder, call, argument, data):
    if call == "plot_history":
        pytest.importorskip("matplotlib")
    function, good, kinds = IN_A_FOLDER[call]
    wrong.assert_refused(
        data, function, lambda: good(folder), argument, kinds[argument], folder=folder
    )


# -- valid arguments that a model cannot use -------------------------------------------------------


@pytest.mark.parametrize("method", ["predict_logits", "predict_proba", "predict", "evaluate"])
def test_before_training(method):
    given = arguments(NEW, y=method == "evaluate")()
    with pytest.raises(ValueError, match="^input_normalization='zscore' is not fitted"):
        getattr(BatchNormMLP, method)(**given)


def test_probabilities_of_a_squared_error():
    given = arguments(FITTED, LOSSES[2], y=False)()
    with pytest.raises(ValueError, match="^predict_proba: expected a loss of classes"):
        BatchNormMLP.predict_proba(**given)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize(
    ("method", "options"), [("fit", FIT), ("partial_fit", {}), ("train_step", {})]
)
def test_too_few_samples(method, options, n):
    given = arguments(NEW, **options)()
    before = wrong.fingerprint(given["self"])
    given |= {"X": given["X"][:n], "y": given["y"][:n]}
    with pytest.raises(ValueError, match=f"^X: expected at least 2 samples, got {n}"):
        getattr(BatchNormMLP, method)(**given)
    assert wrong.fingerprint(given["self"]) == before
