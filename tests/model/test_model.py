"""The model: parameters, calls, determinism, threads and copies."""

from __future__ import annotations

import concurrent.futures
import copy
import itertools
import os
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from cases import JIT_DISABLED, held_by_another_thread

import fastbn
from fastbn.model.guard import OneThread

SIZES = (6, 9, 4)


@pytest.fixture
def data(rng):
    x = rng.standard_normal((120, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)


def fit(model, data, **options):
    return model.fit(*data, **({"epochs": 3, "batch_size": 32} | options))


def test_named_parameters_are_views_of_one_buffer():
    model = fastbn.BatchNormMLP((6, 5, 4, 3), batch_norm_output=False)
    shapes = {name: view.shape for name, view in model.named_parameters()}
    assert shapes == {
        "layers.0.weight": (5, 6), "layers.0.gamma": (5,), "layers.0.beta": (5,),
        "layers.1.weight": (4, 5), "layers.1.gamma": (4,), "layers.1.beta": (4,),
        "layers.2.weight": (3, 4), "layers.2.bias": (3,),
    }  # fmt: skip
    for (_, view), (_, gradient) in zip(
        model.named_parameters(), model.named_gradients(), strict=True
    ):
        assert np.shares_memory(view, model.params)
        assert np.shares_memory(gradient, model.grads)
        assert view.ctypes.data % 64 == 0
    assert model.layout.n_parameters == sum(int(np.prod(s)) for s in shapes.values())


def test_initial_weights_have_the_deviation_of_he_et_al():
    model = fastbn.BatchNormMLP((400, 300, 10), negative_slope=0.5)
    parameters = dict(model.named_parameters())
    expected = np.sqrt(2 / (1 + 0.5**2) / 400)
    assert parameters["layers.0.weight"].std() == pytest.approx(expected, rel=0.02)
    assert (parameters["layers.0.gamma"] == 1).all()
    assert (parameters["layers.0.beta"] == 0).all()


def test_the_seed_decides_everything(data):
    results = []
    for seed in (1, 1, 2):
        model = fastbn.BatchNormMLP(SIZES, seed=seed, dropout=0.2)
        fit(model, data)
        results.append(model.params.copy())
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_fit_goes_on_from_where_it_was(data):
    whole, parts = (fastbn.BatchNormMLP(SIZES, dropout=0.2) for _ in range(2))
    fit(whole, data, epochs=4)
    fit(parts, data, epochs=1)
    fit(parts, data, epochs=3)
    assert np.array_equal(whole.params, parts.params)
    assert np.array_equal(whole.v, parts.v)
    assert parts.steps == whole.steps == 16


def test_partial_fit_and_train_step_are_the_same_steps(data):
    x, y = data
    models = [fastbn.BatchNormMLP(SIZES) for _ in range(3)]
    models[0].fit(x, y, epochs=1, batch_size=40, shuffle=False)
    assert models[1].partial_fit(x, y, batch_size=40) is models[1]
    for first in (0, 40, 80):
        models[2].train_step(x[first : first + 40], y[first : first + 40])
    for model in models[1:]:
        assert np.array_equal(model.params, models[0].params)
        assert np.array_equal(model.running_var, models[0].running_var)


def test_partial_fit_takes_all_rows_at_once_by_default(data):
    model = fastbn.BatchNormMLP(SIZES)
    model.partial_fit(*data)
    assert model.steps == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float64, np.dtype("f4")])
def test_dtype(data, dtype):
    model = fastbn.BatchNormMLP(SIZES, dtype=dtype)
    fit(model, data)
    assert model.params.dtype == np.dtype(dtype)
    assert model.predict_proba(data[0]).dtype == np.dtype(dtype)
    assert model.predict(data[0]).dtype == np.int64


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.float64),
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    ],
)
def test_the_form_of_the_data_does_not_matter(data, convert):
    expected, model = (fastbn.BatchNormMLP(SIZES) for _ in range(2))
    fit(expected, data)
    fit(model, (convert(data[0]), data[1]))
    assert np.array_equal(model.params, expected.params)
    assert np.array_equal(model.predict(convert(data[0])), expected.predict(data[0]))


def test_images_of_integers_and_read_only_data(data):
    x = (data[0] * 50).astype(np.int16)
    x.flags.writeable = False
    model = fastbn.BatchNormMLP(SIZES, input_normalization="minmax", lr=0.02)
    history = fit(model, (x, data[1]), epochs=20)
    assert history.accuracy[-1] > 0.8


def test_probabilities(data):
    model = fastbn.BatchNormMLP(SIZES)
    fit(model, data)
    p = model.predict_proba(data[0])
    assert p.shape == (120, 4)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(p.argmax(axis=1), model.predict(data[0]))
    loss, accuracy = model.evaluate(*data)
    assert loss == pytest.approx(-np.log(p[np.arange(120), data[1]]).mean(), rel=1e-5)
    assert accuracy == (model.predict(data[0]) == data[1]).mean()
    assert model.predict_proba(np.empty((0, 6))).shape == (0, 4)
    assert model.predict(np.empty((0, 6), np.float32)).shape == (0,)


def test_inference_in_many_batches(rng):
    model = fastbn.BatchNormMLP((3, 5, 2))
    x = rng.standard_normal((1300, 3)).astype(np.float32)
    model.partial_fit(x, (x[:, 0] > 0).astype(int))
    alone = np.concatenate([model.predict_logits(x[i : i + 1]) for i in range(0, 1300, 99)])
    assert np.allclose(model.predict_logits(x)[::99], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["zscore", "minmax"])
def test_input_normalization_is_that_of_the_training_data(data, mode):
    x, y = data
    shifted = 1000 + 50 * x
    model = fastbn.BatchNormMLP(SIZES, input_normalization=mode)
    with pytest.raises(ValueError, match="is not fitted"):
        model.predict(shifted)
    fit(model, (shifted, y))
    center = model.scaling.center.copy()
    expected = shifted.mean(axis=0) if mode == "zscore" else shifted.min(axis=0)
    assert np.allclose(center, expected, rtol=1e-6)
    fit(model, (shifted + 7, y))
    assert np.array_equal(model.scaling.center, center), "fitted once, on the first data"


def test_sample_weights_choose_what_is_learned(data):
    x, y = data
    wrong = np.r_[y[:60], 3 - y[60:]]
    weight = np.r_[np.ones(60), np.zeros(60)]
    model = fastbn.BatchNormMLP(SIZES, lr=0.01)
    model.fit(x, wrong, epochs=60, batch_size=30, sample_weight=weight)
    assert model.evaluate(x[:60], y[:60])[1] > 0.95
    assert model.evaluate(x[60:], wrong[60:])[1] < 0.3


# Wrong arguments by the type of their error; its message begins with their name.
REFUSED = {
    TypeError: [
        ("layer_sizes[0]", (5.0, 3)), ("layer_sizes", 5), ("layer_sizes", "55"), ("batch_norm", 1),
        ("batch_norm_output", None), ("betas", (0.9,)), ("optimizer_eps", "0"),
    ],
    ValueError: [
        ("layer_sizes", (5,)), ("layer_sizes[1]", (5, 0, 3)), ("layer_sizes[-1]", (5, 1)),
        ("activation", "gelu"), ("negative_slope", 2), ("eps", -1), ("momentum", 1.1),
        ("gradient", "none"), ("input_normalization", "l2"), ("optimizer", "other"), ("lr", np.inf),
        ("betas[1]", (0.9, 1.0)), ("weight_decay", -0.1), ("max_norm", 0), ("dropout", 1.0),
        ("dtype", "float16"), ("dtype", 3), ("seed", -1), ("seed", 2**32),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("error", "name", "value"), [(error, *case) for error in REFUSED for case in REFUSED[error]]
)
def test_arguments_refused(error, name, value):
    with pytest.raises(error, match=f"^{re.escape(name)}: "):
        fastbn.BatchNormMLP(**{name.partition("[")[0]: value})


DATA_REFUSED = [
    (lambda x, y: (x[:, :5], y), ValueError, r"X: expected shape \(samples, 6\), got \(120, 5\)"),
    (lambda x, y: (x[0], y), ValueError, "X: "),
    (lambda x, y: (x[:0], y[:0]), ValueError, "X: expected at least 2 samples, got"),
    (lambda x, y: (x[:1], y[:1]), ValueError, "X: expected at least 2 samples, got"),
    (lambda x, y: (x.astype(object), y), TypeError, "X: "),
    (lambda x, y: (x.astype(str), y), TypeError, "X: "),
    (lambda x, y: (np.where(x > 2, np.nan, x), y), ValueError, "X: expected finite numbers"),
    (lambda x, y: (np.where(x > 2, np.inf, x.astype(float)), y), ValueError, "X: expected finite"),
    (lambda x, y: (x, y[:5]), ValueError, "y: expected shape"),
    (lambda x, y: (x, y * 1.0), TypeError, "y: expected integer labels"),
    (lambda x, y: (x, y + 1), ValueError, "y: expected labels from 0 to 3"),
    (lambda x, y: (x, y[:, None]), ValueError, "y: expected shape"),
]


@pytest.mark.parametrize("case", range(len(DATA_REFUSED)))
def test_data_refused(data, case):
    change, error, message = DATA_REFUSED[case]
    model = fastbn.BatchNormMLP(SIZES, input_normalization="zscore")
    before = pickle.dumps(model)
    for method in (model.fit, model.partial_fit, model.train_step):
        options = {"epochs": 1, "batch_size": 32} if method == model.fit else {}
        with np.errstate(over="ignore"), pytest.raises(error, match=message):
            method(*change(*data), **options)
    assert pickle.dumps(model) == before, "a refused call changed the model"


FIT_REFUSED = {
    TypeError: [
        ("epochs", 1.5), ("shuffle", "yes"), ("early_stopping", "yes"), ("callbacks", 3),
        ("callbacks", [3]), ("validation_data", 5),
    ],
    ValueError: [
        ("epochs", 0), ("batch_size", 1), ("early_stopping", 0), ("schedule", "linear"),
        ("early_stopping", fastbn.EarlyStopping()), ("until_accuracy", 90), ("progress", "always"),
        ("schedule", lambda step: -1.0), ("sample_weight", np.ones(5)),
        ("sample_weight", np.full(120, -1.0)),
        ("validation_data", (np.zeros((3, 5)), np.zeros(3, int))),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [(error, *case) for error in FIT_REFUSED for case in FIT_REFUSED[error]],
)
def test_fit_refused(data, error, name, value):
    model = fastbn.BatchNormMLP(SIZES, input_normalization="zscore")
    before = pickle.dumps(model)
    with pytest.raises(error, match=f"^{name}"):
        fit(model, data, **{name: value})
    with pytest.raises(TypeError, match="argument"):
        fit(model, data, schedule=lambda: 1)
    assert pickle.dumps(model) == before, "a refused call changed the model"


def test_a_single_sample_trains_without_batch_norm(rng):
    model = fastbn.BatchNormMLP(SIZES, batch_norm=False)
    loss = model.train_step(rng.standard_normal((1, 6)), np.array([2]))
    assert loss > 0
    assert model.fit(np.eye(6), np.arange(6) % 4, epochs=1, batch_size=1).steps == [6]
    assert model.steps == 7


def test_copies_are_independent(data):
    model = fastbn.BatchNormMLP(SIZES)
    fit(model, data)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        expected = model.predict_proba(data[0])
        assert np.array_equal(other.predict_proba(data[0]), expected)
        fit(other, data)
        assert np.array_equal(model.predict_proba(data[0]), expected)


def test_one_model_predicts_in_many_threads(rng):
    x = rng.standard_normal((3000, 6)).astype(np.float32)
    model = fastbn.BatchNormMLP(SIZES)
    model.partial_fit(x, rng.integers(0, 4, 3000))
    expected = model.predict_logits(x)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: model.predict_logits(x), range(80)))
    assert all(np.array_equal(result, expected) for result in results)


def test_a_model_is_trained_by_one_thread_at_a_time(data):
    model = fastbn.BatchNormMLP(SIZES)
    before = model.params.copy()
    release = held_by_another_thread(model)
    with pytest.raises(RuntimeError, match="another thread"):
        model.train_step(*data)
    state = pickle.dumps(model)
    with pytest.raises(RuntimeError, match="another thread"):
        fit(model, data)
    assert pickle.dumps(model) == state
    release()
    assert np.array_equal(model.params, before)
    model.train_step(*data)
    assert model.steps == 1


def test_one_of_two_threads_at_once_is_refused(data):
    """The other thread tries at each moment while the first one enters or leaves."""
    for moment in itertools.count(1):
        model, left = fastbn.BatchNormMLP(SIZES), moment
        came, ended = threading.Event(), threading.Event()
        refused, in_time = [], []

        def stay(model, history, came=came, ended=ended, in_time=in_time):
            came.set()
            in_time.append(ended.wait(20))

        def come(model=model, came=came, refused=refused, stay=stay):
            try:
                fit(model, data, epochs=1, callbacks=[stay], progress=False)
            except RuntimeError:
                refused.append("the other")
            came.set()

        other = threading.Thread(target=come)

        def profile(frame, event, arg, other=other, came=came):
            nonlocal left
            if frame.f_code is OneThread.run.__code__:
                left -= 1
                if left == 0:
                    other.start()
                    came.wait()

        usual = sys.getprofile()
        sys.setprofile(profile)
        try:
            model.train_step(*data)
        except RuntimeError:
            refused.append("the first")
        finally:
            sys.setprofile(usual)
        ended.set()
        if left > 0:
            break
        other.join()
        assert all(in_time), "the first one waited for the other"
        assert len(refused) <= 1
        assert model.steps == {"the first": 4, "the other": 1}.get("".join(refused), 5)
        model.train_step(*data)
    assert moment > 5


def test_a_snapshot_from_before_the_first_fit(data):
    model = fastbn.BatchNormMLP(SIZES, input_normalization="zscore")
    snapshot = model.snapshot()
    fit(model, data)
    model.restore(snapshot)
    with pytest.raises(ValueError, match="is not fitted"):
        model.predict(data[0])


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_only_ratios_of_weights_count(data, size):
    plain, weighted = (fastbn.BatchNormMLP(SIZES) for _ in range(2))
    fit(plain, data, sample_weight=np.ones(120))
    fit(weighted, data, sample_weight=np.full(120, size))
    assert np.array_equal(plain.params, weighted.params)


def test_repr_tells_what_it_is():
    assert repr(fastbn.BatchNormMLP(SIZES)) == "BatchNormMLP(6-9-4, 116 parameters, 0 steps)"


@pytest.mark.parametrize("scaling", [None, "zscore", "minmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bytes_give_the_bits_that_numbers_give(rng, scaling, dtype):
    X = rng.integers(0, 256, (70, 5), np.uint8)
    X[:, 2] = 7
    y = rng.integers(0, 3, 70)
    models = []
    for data in (X, X.astype(dtype), np.asfortranarray(X)):
        model = fastbn.BatchNormMLP((5, 9, 3), input_normalization=scaling, dtype=dtype, seed=3)
        model.fit(data, y, epochs=2, batch_size=33, validation_data=(data[::2], y[::2]))
        models.append((model.params, model.running_var, model.predict_proba(data[1:])))
    for others in models[1:]:
        for expected, actual in zip(models[0], others, strict=True):
            assert np.array_equal(actual, expected)


def predict_in_another_process(folder, dtypes):
    """Return whether another process predicts the same logits from the data in each dtype."""
    code = f"""
import numpy as np, fastbn
rng = np.random.default_rng(1)
X = rng.integers(0, 256, (70, 5), np.uint8)
model = fastbn.BatchNormMLP((5, 9, 3), dtype="float64")
model.params = rng.standard_normal(model.params.shape)
model.running_mean = rng.standard_normal(model.running_mean.shape)
model.running_var = 1 + rng.random(model.running_var.shape)
logits = [model.predict_logits(X.astype(dtype)) for dtype in {dtypes}]
print(all(np.array_equal(logits[0], others) for others in logits))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.compiles
@pytest.mark.skipif(JIT_DISABLED, reason="of compiled functions")
def test_bits_do_not_depend_on_what_was_compiled_when(tmp_path):
    """One kernel is loaded from disk, one is compiled, and both call the same function."""
    predict_in_another_process(tmp_path, ["float64"])
    assert predict_in_another_process(tmp_path, ["float64", "uint8"]) == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_trains_what_another_thread_was_training(data):
    """The child does not have that thread, and still lets only one thread train at a time."""
    model = fastbn.BatchNormMLP(SIZES)
    release = held_by_another_thread(model)
    child = os.fork()
    if child == 0:
        trained = 0
        try:
            model.train_step(*data)
            thread = threading.Thread(target=model.train_step, args=data)
            thread.start()
            thread.join()
            trained = model.steps
            held_by_another_thread(model)
            model.train_step(*data)
        except RuntimeError:
            trained += 5
        finally:
            os._exit(trained)
    with pytest.raises(RuntimeError, match="another thread"):
        model.train_step(*data)
    release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    model.train_step(*data)


def test_the_model_has_only_its_documented_names():
    names = {name for name in dir(fastbn.BatchNormMLP) if not name.startswith("_")}
    assert names == {
        "fit", "partial_fit", "train_step", "fit_bytes", "snapshot", "restore", "save", "load",
        "predict", "predict_proba", "predict_logits", "evaluate",
        "named_parameters", "named_gradients",
        "config", "layout", "dtype", "steps", "epochs", "scaling", "target_scaling",
        "params", "grads", "m", "v", "running_mean", "running_var",
    }  # fmt: skip
    assert set(vars(fastbn.BatchNormMLP(SIZES))) == {"_engine", "metadata"}
