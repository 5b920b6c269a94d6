"""Inputs of other dtypes than the model's are scaled in float64 before they are rounded."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from cases import JIT_DISABLED
from resumed import assert_resumes
from safetensors import safe_open
from safetensors.numpy import save_file

import fastbn
from fastbn.model.inputs import training_samples
from fastbn.model.measures import moments
from fastbn.parallel.costs import measured_costs

MODES = ("zscore", "minmax")
DAY = 2_459_000.5


def julian_dates(rng, n=600):
    """Return data whose class depends on a tenth of a day; float32 resolves a quarter of a day."""
    t = rng.uniform(0, 0.1, n)
    return np.c_[DAY + t, rng.normal(size=n)], (t > 0.05).astype(np.int64)


def make(mode, sizes=(2, 16, 2), **options):
    return fastbn.BatchNormMLP(
        sizes, **{"input_normalization": mode, "lr": 0.02, "seed": 3} | options
    )


def fit(model, x, y, **options):
    return model.fit(x, y, **{"epochs": 30, "batch_size": 50, "progress": False} | options)


def scaled(x, mode, weight=None):
    """Return the expected inputs of the network, computed in another way."""
    x = x.astype(np.longdouble)
    if mode == "minmax":
        low = x.min(axis=0)
        return ((x - low) / (x.max(axis=0) - low)).astype(np.float64)
    mean = np.average(x, axis=0, weights=weight)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    return ((x - mean) / deviation).astype(np.float64)


@pytest.mark.parametrize("mode", MODES)
def test_dates_are_learned(rng, tmp_path, mode):
    x, y = julian_dates(rng)
    model = make(mode)
    history = fit(model, x, y, validation_data=(x[:200], y[:200]))
    loss, accuracy = model.evaluate(x, y)
    assert accuracy > 0.97
    assert history.val_accuracy[-1] == model.evaluate(x[:200], y[:200])[1] > 0.97
    assert (model.predict(x) == y).mean() == accuracy
    model.save(tmp_path / "model")
    loaded = fastbn.BatchNormMLP.load(tmp_path / "model")
    assert loaded.evaluate(x, y) == (loss, accuracy)
    for other in (loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(other.predict_logits(x), model.predict_logits(x))


@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_train_sees_scaled_dates(rng, mode):
    """It trains like a model without scaling on the scaled data."""
    x, y = julian_dates(rng)
    z = scaled(x, mode)

    def all_of(model, x):
        model.train_step(x, y)
        model.partial_fit(x, y, batch_size=100)
        fit(model, x, y, epochs=2, early_stopping=5, validation_data=(x[::3], y[::3]))
        return model

    model, plain = all_of(make(mode), x), all_of(make(None), z)
    np.testing.assert_allclose(model.params, plain.params, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.predict_logits(x), plain.predict_logits(z), atol=2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_the_samples_are_rounded_once(rng, mode):
    x, y = julian_dates(rng)
    samples = training_samples(make(mode), x, y, None).arrays
    assert samples.x.dtype == np.float32
    assert (samples.center == 0).all()
    assert (samples.scale == 1).all()
    expected = scaled(x, mode)
    # float64 resolves 1.6e-8 of a deviation of 0.03 days
    np.testing.assert_allclose(samples.x, expected.astype(np.float32), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_count_in_what_is_measured(rng, mode, weighted):
    x, y = julian_dates(rng)
    weight = rng.integers(0, 3, len(x)).astype(float)
    x[weight == 0, 0] = 0.0
    seen = weight > 0
    model = make(mode, weighted=weighted)
    samples = training_samples(model, x, y, weight).arrays
    expected = scaled(x[seen], mode, weight[seen] if weighted else None)
    np.testing.assert_allclose(samples.x[seen], expected, rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_scaling_of_float32_data_takes_float64_data(rng, mode):
    """The float64 data differ from the previous float32 data by less than their rounding."""
    x, y = rng.normal(1e4, 1e-2, (400, 2)), rng.integers(0, 2, 400)
    model = make(mode)
    model.partial_fit(x.astype(np.float32), y)
    center, scale = model.scaling.center, model.scaling.scale
    assert np.array_equal(center, center.astype(np.float32)), "what the kernels scale by"
    expected = ((x - center) * scale).astype(np.float32)
    samples = training_samples(model, x, y, None).arrays
    assert np.array_equal(samples.x, expected)
    narrow = training_samples(model, x.astype(np.float32), y, None).arrays
    assert narrow.x.dtype == np.float32
    assert np.array_equal(narrow.center, center)
    assert np.array_equal(narrow.scale, scale)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int16", ">f4", "longdouble"])
def test_a_scaling_of_float64_data_takes_all_others(rng, mode, dtype):
    """The same numbers of any dtype give the same bits."""
    x, y = rng.uniform(0, 200, (300, 2)), rng.integers(0, 2, 300)
    model = make(mode)
    fit(model, x, y, epochs=2)
    others = x.astype(dtype)
    expected = model.predict_logits(others.astype(np.float64))
    assert np.array_equal(model.predict_logits(others), expected)
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    first.partial_fit(others, y)
    second.partial_fit(others.astype(np.float64), y)
    assert np.array_equal(first.params, second.params)


def test_numbers_of_other_dtypes_are_measured_exactly():
    x = np.array([[1.7e18, 7, 1], [1.7e18 + 2048, 7, 0], [1.7e18 + 4096, 7, 1]])
    y = np.array([0, 1, 0])
    for dtype in (np.int64, np.longdouble):
        scaling = training_samples(make("minmax", (3, 2)), x.astype(dtype), y, None).inputs
        assert scaling.center.tolist() == [1.7e18, 7, 0]
        assert scaling.scale.tolist() == [1 / 4096, 1, 1]
        scaling = training_samples(make("zscore", (3, 2)), x.astype(dtype), y, None).inputs
        np.testing.assert_allclose(scaling.center, [1.7e18 + 2048, 7, 2 / 3], rtol=1e-15)
        deviations = [np.sqrt(2 / 3) * 2048, 1, np.sqrt(2) / 3]
        np.testing.assert_allclose(scaling.scale, 1 / np.array(deviations), rtol=1e-14)


@pytest.mark.parametrize("value", [DAY, 1e300, 0.1, -1e-310, 2**53 + 2.0])
@pytest.mark.parametrize("mode", MODES)
def test_constant_columns_are_zero(rng, mode, value):
    x = np.c_[np.full(300, value), rng.normal(size=300)]
    samples = training_samples(make(mode), x, np.arange(300) % 2, None)
    assert (samples.arrays.x[:, 0] == 0).all()
    assert samples.inputs.scale[0] == 1
    assert samples.inputs.center[0] == value


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [1e300, 1e39, 1e-60, 1e-300])
def test_what_scaling_brings_into_range_is_taken(rng, tmp_path, mode, factor):
    z, y = rng.normal(size=(300, 2)), rng.integers(0, 2, 300)
    model, plain = make(mode), make(mode)
    fit(model, z * factor, y, epochs=2)
    fit(plain, z, y, epochs=2)
    np.testing.assert_allclose(model.predict_logits(z * factor), plain.predict_logits(z), atol=1e-4)
    model.save(tmp_path / "model")
    loaded = fastbn.BatchNormMLP.load(tmp_path / "model")
    assert np.array_equal(loaded.predict_logits(z * factor), model.predict_logits(z * factor))
    pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch

    from fastbn.torch import to_torch

    module, _ = to_torch(model)
    said = module(torch.from_numpy(z * factor)).detach().numpy()
    np.testing.assert_allclose(said, model.predict_logits(z * factor), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_what_scaling_does_not_bring_into_range_is_refused(rng, mode):
    x, y = julian_dates(rng)
    model = make(mode)
    fit(model, x, y, epochs=1)
    before = pickle.dumps(model)
    far = x.copy()
    far[[7, 500], 0] = 1e300
    message = "expected numbers that fit float32 after scaling .*, got others in row 7"
    for call in (
        lambda: model.predict(far),
        lambda: model.evaluate(far, y),
        lambda: model.train_step(far, y),
        lambda: fit(model, far, y),
    ):
        with pytest.raises(ValueError, match=f"^X: {message}"):
            call()
    fresh = make(mode)
    for one in (model, fresh):  # fresh has no scaling yet
        with pytest.raises(ValueError, match=rf"^validation_data\[0\]: {message}"):
            fit(one, x, y, validation_data=(far, y))
    assert pickle.dumps(model) == before
    assert fresh.steps == 0
    assert not fresh.scaling.is_fitted
    wide = np.copysign(1.7e308, x - x.mean(axis=0))
    with pytest.raises(ValueError, match="X: expected ranges and deviations of at most 4.5e.307 "):
        fit(fresh, wide, y)


@pytest.mark.parametrize("dtype", ["float64", "float16", "longdouble"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_row_is_named(rng, dtype, bad):
    x, y = rng.normal(size=(70_000, 2)).astype(dtype), rng.integers(0, 2, 70_000)
    x[66_000, 1] = bad
    model = make("zscore")
    message = "X: expected finite numbers of float64, got others in row 66000"
    with pytest.raises(ValueError, match=message):
        model.train_step(x, y)
    model.train_step(x[:100], y[:100])
    with pytest.raises(ValueError, match=message):
        model.predict(x)
    training_samples(model, x, y, None, check_finite=False)
    with pytest.raises(ValueError, match="X: .*to scale, got .* in feature 1"):
        training_samples(make("zscore"), x, y, None, check_finite=False)


def test_data_of_the_models_dtype_and_bytes_keep_their_bits(rng, monkeypatch):
    """Kernels read them directly, with center and scale in the model's dtype."""
    y = rng.integers(0, 2, 300)
    for dtype in ("float32", "float64"):
        for x in (rng.normal(5, 2, (300, 2)).astype(dtype), rng.integers(0, 9, (300, 2), np.uint8)):
            for mode in MODES:
                samples = training_samples(make(mode, dtype=dtype), x, y, None)
                assert samples.arrays.x is x
                assert samples.arrays.center.dtype == dtype
                assert np.array_equal(samples.arrays.center, samples.inputs.center)
                assert np.array_equal(samples.arrays.scale, samples.inputs.scale)
    # in a float64 model all other dtypes are converted
    samples = training_samples(make("zscore", dtype="float64"), np.c_[y, y], y, None).arrays
    assert np.array_equal(samples.x, np.c_[y, y])


def test_files_with_a_scaling_of_float32(rng, tmp_path):
    """Earlier versions wrote such files."""
    x, y = rng.normal(5, 2, (300, 2)).astype(np.float32), rng.integers(0, 2, 300)
    model = make("zscore")
    fit(model, x, y, epochs=2)
    model.save(tmp_path / "new")
    with safe_open(tmp_path / "new", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for name in ("input.center", "input.scale"):
        assert tensors[name].dtype == np.float64
        tensors[name] = tensors[name].astype(np.float32)
    metadata["fastbn"] = metadata["fastbn"].replace(', "target_is_fitted": true', "")
    metadata["fastbn"] = metadata["fastbn"].replace(', "target_normalization": null', "")
    assert "target" not in metadata["fastbn"]
    save_file(tensors, tmp_path / "old", metadata)
    loaded = fastbn.BatchNormMLP.load(tmp_path / "old")
    assert np.array_equal(loaded.predict_logits(x), model.predict_logits(x))
    loaded.train_step(x, y)
    model.train_step(x, y)
    assert np.array_equal(loaded.params, model.params)


def test_pickles_and_snapshots_of_earlier_versions(rng):
    x, y = rng.normal(5, 2, (300, 2)).astype(np.float32), rng.integers(0, 2, 300)
    model = make("zscore")
    fit(model, x, y, epochs=2)
    state = model.__getstate__()
    del state["target_scaling"]
    scaling = {**vars(state["scaling"])}
    del scaling["dtype"]
    for name in ("center", "scale"):
        scaling[name] = scaling[name].astype(np.float32)
    state["scaling"] = object.__new__(type(model.scaling))
    state["scaling"].__setstate__(scaling)
    state["config"] = copy.copy(model.config)
    del vars(state["config"])["target_normalization"]
    older = object.__new__(fastbn.BatchNormMLP)
    older.__setstate__(state)
    assert older.config == model.config
    assert older.scaling.center.dtype == np.float64
    assert np.array_equal(older.predict_logits(x), model.predict_logits(x))
    snapshot = model.snapshot()
    del snapshot["target_is_fitted"]
    for name in ("input.center", "input.scale"):
        snapshot[name] = snapshot[name].astype(np.float32)
    expected = model.predict_logits(x)
    model.train_step(x, y)
    model.restore(snapshot)
    assert np.array_equal(model.predict_logits(x), expected)


@pytest.mark.parametrize("convert", [np.asarray, np.asfortranarray, lambda x: x.astype(">f8")])
@pytest.mark.parametrize("warm", [False, True])
def test_a_fit_to_dates_goes_on_with_the_same_bits(rng, tmp_path, warm, convert):
    """A new model gets the checkpoint's scaling; the data may have another memory layout."""
    x, y = julian_dates(rng)

    def start(is_new):
        model = make("zscore", weighted=True)
        if warm and not is_new:
            model.partial_fit(x + 0.3, y)
        return model

    assert_resumes(start, x, y, (convert(x), y), (x + 1e-9, y), tmp_path / "c", "val_loss")


def test_validation_data_are_scaled_once(rng, monkeypatch):
    x, y = julian_dates(rng)
    counts = []
    kind = type(make("zscore").scaling)
    real = kind.scaled

    def counted(self, name, *arguments):
        counts.append(name)
        return real(self, name, *arguments)

    monkeypatch.setattr(kind, "scaled", counted)
    fit(make("zscore"), x, y, epochs=3, validation_data=(x, y))
    assert sorted(counts) == ["X", "validation_data[0]"]


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_there_is_one_copy_of_the_models_dtype(rng, mode, order):
    n = 60_000
    x = np.asarray(rng.integers(0, 9, (n, 50)), np.float64, order=order)
    y = np.arange(n) % 2

    def train(n):
        model = make(mode, (50, 8, 2), weighted=True)
        weight = np.ones(n, np.float32)
        weight[0] = 0
        model.fit(
            x[:n], y[:n], epochs=1, batch_size=100, sample_weight=weight, progress=False,
            validation_data=(x[:n], y[:n]),
        )  # fmt: skip
        return model

    model = train(200)
    expected = model.fit_bytes(n, 100, x_dtype=np.float64, sample_weight=True, validation_samples=n)
    if not JIT_DISABLED:
        measured_costs()  # once per process, loads a kernel
    tracemalloc.start()
    try:
        train(n)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2 * 4 * x.size < peak <= 1.1 * expected
    if mode == "zscore":  # float32 cannot represent its scaling, so float32 data are copied, too
        assert model.fit_bytes(n, 100) == model.fit_bytes(n, 100, x_dtype=np.float64)


def test_moments_do_not_overflow():
    x = np.array([[1e300, 1e-300, DAY], [-1e300, 3e-300, DAY + 1], [0, 2e-300, DAY + 2]])
    mean, deviation = moments(x, None, None, 1)
    np.testing.assert_allclose(mean, [0, 2e-300, DAY + 1], rtol=1e-15, atol=1e285)
    third = np.sqrt(2 / 3)
    np.testing.assert_allclose(deviation, [third * 1e300, third * 1e-300, third], rtol=1e-15)


def test_scalings_are_copied_by_snapshots(rng):
    x, y = julian_dates(rng)
    model = make("zscore")
    before = model.snapshot()
    fit(model, x, y, epochs=1)
    expected, snapshot = model.predict_logits(x), model.snapshot()
    model.restore(before)
    fit(model, x + 5, y, epochs=1)
    model.restore(snapshot)
    assert np.array_equal(model.predict_logits(x), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_columns_that_are_constant_up_to_rounding(rng, mode, dtype, weighted):
    x, y = rng.normal(size=(400, 3)), rng.integers(0, 2, 400)
    x[:, 1] = np.where(y == 0, 0.3, 0.1 * 3)
    shares = rng.uniform(size=(400, 50))
    x[:, 2] = (shares / shares.sum(axis=1, keepdims=True)).sum(axis=1)
    assert (np.ptp(x[:, 1:], axis=0) > 0).all()
    model = make(mode, (3, 8, 2), dtype=dtype, weighted=weighted)
    scaling = training_samples(model, x, y, rng.uniform(1, 2, 400)).inputs
    assert scaling.scale[1:].tolist() == [1, 1]
    assert scaling.scale[0] != 1
    fit(model, x, y, epochs=1)
    far = x + np.array([0, 1e-6, 1e-6])
    np.testing.assert_allclose(model.predict_logits(far), model.predict_logits(x), atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_columns_of_few_digits_are_not_constant(rng, mode):
    x, y = DAY + 1e-6 * rng.normal(size=(5000, 1)), rng.integers(0, 2, 5000)
    for dtype in ("float32", "float64"):
        scaling = training_samples(make(mode, (1, 2), dtype=dtype), x, y, None).inputs
        assert scaling.scale[0] == pytest.approx(1 / (x.std() if mode == "zscore" else np.ptp(x)))


@pytest.mark.parametrize("factor", [1e300, 1e200, 1e-160, 1e-200, 1e-300])
@pytest.mark.parametrize("weighted", [False, True])
def test_models_of_float64_scale_what_float64_holds(rng, factor, weighted):
    z, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    z[:, 2] = 5.0
    weight = np.ones(300) if weighted else None
    plain, model = (make("zscore", (3, 8, 2), dtype="float64", weighted=True) for _ in range(2))
    expected = training_samples(plain, z, y, weight).inputs
    x = z * [factor, 1, 1]
    scaling = training_samples(model, x, y, weight).inputs
    np.testing.assert_allclose(scaling.center, expected.center * [factor, 1, 1], rtol=1e-12)
    np.testing.assert_allclose(scaling.scale * [factor, 1, 1], expected.scale, rtol=1e-12)
    assert np.array_equal(scaling.scale[1:], expected.scale[1:])
    fit(model, x, y, epochs=2)
    fit(plain, z, y, epochs=2)
    np.testing.assert_allclose(model.predict_logits(x), plain.predict_logits(z), atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_rows_without_weight_do_not_count(rng, mode, weighted, dtype):
    """They count neither in the scaling of inputs nor in the scaling of targets."""
    x, y = rng.integers(0, 100, (300, 2)).astype(dtype), rng.normal(size=300)
    weight = rng.integers(0, 2, 300).astype(float)
    x[weight == 0], y[weight == 0] = 200, 1e6
    for own in ("float32", "float64"):
        model = make(
            mode, (2, 8, 1), weighted=weighted, dtype=own, loss="squared_error",
            target_normalization="zscore",
        )  # fmt: skip
        samples = training_samples(model, x, y, weight)
        seen = training_samples(model, x[weight > 0], y[weight > 0], None)
        np.testing.assert_allclose(samples.inputs.center, seen.inputs.center, rtol=1e-5)
        np.testing.assert_allclose(samples.inputs.scale, seen.inputs.scale, rtol=1e-5)
        np.testing.assert_allclose(samples.outputs.center, seen.outputs.center, rtol=1e-5)
        np.testing.assert_allclose(samples.outputs.scale, seen.outputs.scale, rtol=1e-5)
