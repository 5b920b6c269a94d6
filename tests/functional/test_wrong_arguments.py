"""NumPy functions with one wrong argument raise an error that names it and change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import wrong
from hypothesis import given
from hypothesis import strategies as st
from wrong import (
    BATCH,
    BELOW_1,
    BETAS,
    COUNT,
    FLAG,
    LABELS,
    NAME,
    NEGATIVE,
    NO_FLOATS,
    NONE,
    NORM,
    NOT_FINITE,
    NUMBER,
    ONE_SAMPLE,
    OUT,
    PAIR,
    POSITIVE,
    SHARE,
    STATE,
    TARGETS,
    VECTOR,
    WEIGHT,
    changed,
    of,
    value,
    without,
)

import fastbn

HUGE = {"beyond all counts": value(st.integers(10**30, 10**310))}
THREE = {"three dimensions": changed(lambda a: a[None])}
ONE_DIMENSION = {"one dimension": BATCH["one dimension"]}
LOGITS = NO_FLOATS | BATCH
GRAD = {"too small": changed(lambda a: a[:-1]), "wider": changed(lambda a: a.astype(float))}

# What can be wrong with an argument, by its name.
BY_NAME = {
    "layout": NAME | NONE | of("NHWC"),
    "activation": NAME,
    "negative_slope": NUMBER | of(1e300),
    "gradient": NAME | NONE,
    "eps": POSITIVE,
    "gamma": VECTOR,
    "beta": VECTOR,
    "mean": VECTOR | NONE,
    "rstd": VECTOR | NONE,
    "running_mean": VECTOR | NONE,
    "running_var": VECTOR | NEGATIVE | NONE,
    "out": OUT,
    "logits": LOGITS,
    "outputs": LOGITS,
    "sample_weight": WEIGHT,
    "label_smoothing": SHARE,
    "grad": NO_FLOATS | GRAD,
    "m": STATE,
    "v": STATE,
    "lr": POSITIVE,
    "weight_decay": POSITIVE,
    "max_norm": NORM,
    "nesterov": FLAG,
    "momentum": BELOW_1,
    "alpha": BELOW_1,
    "param": without(STATE, "too small") | {"no array": value(st.floats(0, 1))},
}
SCALED = NO_FLOATS | THREE | ONE_DIMENSION

# Shapes of valid arguments, by letter, and wrong values that depend on the function.
FUNCTIONS = {
    "batch_statistics": ({"x": "NC"}, {"x": NO_FLOATS | BATCH}),
    "batch_norm": (
        {"x": "NC", "gamma": "C", "beta": "C", "out": "NC"},
        {"x": NO_FLOATS | BATCH | ONE_SAMPLE},
    ),
    "batch_norm_backward": (
        {"dy": "NC", "x": "NC", "gamma": "C", "beta": "C", "mean": "C", "rstd": "C", "out": "NC"},
        {
            "x": NO_FLOATS | BATCH | ONE_SAMPLE,
            "dy": NO_FLOATS | ONE_DIMENSION | {"of another shape": changed(lambda a: a[:-1])},
        },
    ),
    "batch_norm_inference": (
        {
            "x": "NC",
            "running_mean": "C",
            "running_var": "C",
            "gamma": "C",
            "beta": "C",
            "out": "NC",
        },
        {"x": NO_FLOATS | without(BATCH, "no samples")},
    ),
    "update_running_statistics": (
        {"running_mean": "C", "running_var": "C", "mean": "C", "var": "C"},
        {
            "running_mean": without(STATE, "too small") | {"a matrix": changed(lambda a: a[None])},
            "running_var": STATE,
            "var": VECTOR | NEGATIVE | NONE,
            "n": COUNT | HUGE,
            "momentum": without(SHARE, "None"),
            "unbiased": FLAG,
        },
    ),
    "fold_batch_norm": (
        {"W": "CK", "gamma": "C", "beta": "C", "running_mean": "C", "running_var": "C"},
        {"W": NO_FLOATS | ONE_DIMENSION | {"a number": BATCH["a number"]}},
    ),
    "softmax_cross_entropy": ({"logits": "NC", "sample_weight": "N"}, {"labels": LABELS}),
    "sigmoid_cross_entropy": (
        {"logits": "NC", "targets": "NC", "sample_weight": "N"},
        {
            "targets": TARGETS
            | {
                "above 1": changed(lambda a, by: a + by, st.floats(0.6, 9)),
                "below 0": changed(lambda a, by: a - by, st.floats(1.1, 9)),
                "nan": NOT_FINITE["nan"],
            }
        },
    ),
    "squared_error": (
        {"outputs": "NC", "targets": "NC", "sample_weight": "N"},
        {"targets": TARGETS | {"too large": VECTOR["too large"]}},
    ),
    "adam_step": (
        dict.fromkeys(("param", "grad", "m", "v"), "N"),
        {"step": COUNT | HUGE, "betas": BETAS, "decoupled": FLAG},
    ),
    "sgd_step": (dict.fromkeys(("param", "grad", "m"), "N"), {}),
    "rmsprop_step": (dict.fromkeys(("param", "grad", "v"), "N"), {}),
    "min_max_scale": (
        {"x": "NC", "minimum": "C", "maximum": "C", "out": "NC"},
        {
            "x": SCALED,
            "minimum": VECTOR | NONE,
            "maximum": VECTOR | NONE | {"below the minimum": changed(lambda a: a - 5)},
            "feature_range": PAIR | of((1, 0), (1, 1), (0, np.inf), "ab"),
        },
    ),
    "standardize": (
        {"x": "NC", "mean": "C", "std": "C", "out": "NC"},
        {"x": SCALED, "std": VECTOR | NEGATIVE | NONE},
    ),
}

# The message may name another argument, which determines the dtype or shape.
SAYS = {
    ("update_running_statistics", "running_mean"): "running_(mean|var)",
    **{(f"{name}_step", "param"): "(param|grad|m|v): " for name in ("adam", "sgd", "rmsprop")},
}

# Functions that use num_batches_tracked.
TRACKED = of(None, True, "1") | {
    "negative": value(st.integers(max_value=-1)),
    "a fraction": value(st.floats(0.1, 9.9)),
    "beyond all counts": HUGE["beyond all counts"],
}


def good(name, shapes, sizes):
    """Make valid arguments: float32 numbers from 0.5 to 1."""
    rng = np.random.default_rng(1)
    arguments = {
        argument: rng.uniform(0.5, 1.0, [sizes[letter] for letter in shape]).astype(np.float32)
        for argument, shape in shapes.items()
    }
    if name == "softmax_cross_entropy":
        arguments["labels"] = np.linspace(0, sizes["C"] - 1, sizes["N"]).astype(int)
    if name == "min_max_scale":
        arguments["minimum"] -= 1
        arguments["maximum"] += 1
    if name == "update_running_statistics":
        arguments |= {"n": 4, "num_batches_tracked": 1}
    return arguments | ({"step": 1} if name == "adam_step" else {})


CASES = [
    (name, argument)
    for name in FUNCTIONS
    for argument in wrong.parameters(getattr(fastbn, name))
    if argument != "num_batches_tracked"
]


@pytest.mark.parametrize(("name", "argument"), CASES)
@wrong.examples
@given(data=st.data())
def test_a_wrong_argument_is_refused(name, argument, data):
    shapes, kinds = FUNCTIONS[name]
    sizes = data.draw(
        st.fixed_dictionaries(
            {"N": st.sampled_from([4, 6]), "C": st.sampled_from([3, 5]), "K": st.just(2)}
        ),
        label="sizes",
    )
    wrong.assert_refused(
        data,
        getattr(fastbn, name),
        lambda: good(name, shapes, sizes),
        argument,
        kinds[argument] if argument in kinds else BY_NAME[argument],
        says=SAYS.get((name, argument)),
    )


def test_every_function_is_drawn():
    public = {name for name in fastbn.functional.__all__}
    assert set(FUNCTIONS) == public


def images(**shapes):
    rng = np.random.default_rng(1)
    return {k: rng.uniform(0.5, 1.0, shape).astype(np.float32) for k, shape in shapes.items()}


# Other layouts, and missing arguments: function, valid arguments, options, wrong values.
OTHERS = {
    "batch_norm, feature-major": (
        lambda: images(x=(3, 4), gamma=(3,), out=(3, 4)),
        {"layout": "CN"},
        {"x": THREE | {"one sample": changed(lambda a: a[:, :1])}, "gamma": VECTOR, "out": OUT},
    ),
    "batch_norm, images": (
        lambda: images(x=(2, 3, 4, 4), gamma=(3,), out=(2, 3, 4, 4)),
        {},
        {
            "x": {
                "one pixel": changed(lambda a: a[:1, :, :1, :1]),
                "none": changed(lambda a: a[:, :, :0]),
            },
            "gamma": {"of a pixel": changed(lambda a: np.ones(4, a.dtype))},
            "out": {"flat": changed(lambda a: a.reshape(2, -1)), "over itself": OUT["over itself"]},
        },
    ),
    "softmax_cross_entropy, images": (
        lambda: images(logits=(2, 3, 4)) | {"labels": np.zeros((2, 4), int)},
        {},
        {"labels": {"of images": changed(lambda a: a[:, 0]), "flat": changed(np.ravel)}},
    ),
    "update_running_statistics, cumulative": (
        lambda: images(running_mean=(3,), running_var=(3,), mean=(3,), var=(3,)),
        {"n": 4, "momentum": None},
        {"num_batches_tracked": TRACKED},
    ),
    **{
        f"{name}, measured": (
            lambda: images(x=(4, 3)),
            {},
            {"x": {kind: BATCH[kind] for kind in ("no samples", "no features")}},
        )
        for name in ("min_max_scale", "standardize")
    },
}


@pytest.mark.parametrize("case", OTHERS)
@wrong.examples
@given(data=st.data())
def test_other_layouts_and_arguments_that_are_left_out(case, data):
    arguments, options, kinds = OTHERS[case]
    function = getattr(fastbn, case.split(",")[0])
    for argument in kinds:
        wrong.assert_refused(
            data, lambda **given: function(**given, **options), arguments, argument, kinds[argument]
        )


# -- the check itself ------------------------------------------------------------------------------


def raising(error, x):
    raise error


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda x: None, "was taken"),
        (lambda x: raising(KeyError("x: wrong"), x), "KeyError"),
        (lambda x: raising(ValueError("wrong"), x), "not named"),
        (lambda x: raising(OSError("x: wrong"), x), "OSError"),
    ],
)
def test_the_check_notices(call, complaint):
    @wrong.examples
    @given(data=st.data())
    def check(data):
        wrong.assert_refused(data, call, dict, "x", of(3))

    with pytest.raises(AssertionError, match=complaint):
        check()


def test_the_check_notices_what_has_changed(tmp_path):
    def change(x, notes):
        notes.append(x)
        raise ValueError("x: wrong")

    def write(x, notes):
        (tmp_path / "file").touch()
        raise ValueError("x: wrong")

    def check(call):
        @wrong.examples
        @given(data=st.data())
        def drawn(data):
            (tmp_path / "file").unlink(missing_ok=True)
            wrong.assert_refused(data, call, lambda: {"notes": []}, "x", of(3), folder=tmp_path)

        drawn()

    for call, complaint in ((change, "argument"), (write, "file")):
        with pytest.raises(AssertionError, match=f"changed .*{complaint}"):
            check(call)
    check(lambda x, notes: raising(ValueError("x: wrong"), x))
