"""Memory that kernels use is checked or copied, and cannot be replaced afterwards."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.model import workspaces
from fastbn.model.inputs import training_samples

SIZES = (6, 9, 4)
BUFFERS = ("params", "grads", "m", "v", "running_mean", "running_var")


@pytest.fixture
def data(rng):
    x = rng.standard_normal((120, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)


@pytest.fixture
def model(data):
    model = fastbn.BatchNormMLP(SIZES, input_normalization="zscore")
    model.partial_fit(*data, batch_size=40)
    return model


def assert_same(model, other):
    """Compare the state of two models."""
    assert (model.config, model.steps, model.epochs) == (other.config, other.steps, other.epochs)
    assert model.metadata == other.metadata
    for name in BUFFERS:
        assert np.array_equal(getattr(model, name), getattr(other, name)), name
    for name in ("center", "scale"):
        assert np.array_equal(getattr(model.scaling, name), getattr(other.scaling, name)), name


# -- attributes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUFFERS)
def test_setting_a_buffer_copies_its_numbers(model, name):
    kept, view = getattr(model, name), getattr(model, name)[1:3]
    numbers = np.arange(kept.size, dtype=">f4")
    setattr(model, name, numbers)
    numbers[:] = -1
    assert np.array_equal(getattr(model, name), np.arange(kept.size))
    assert np.array_equal(kept, np.arange(kept.size))
    assert view.tolist() == [1, 2]
    kept += 1  # in place, as before
    assert getattr(model, name)[0] == 1
    setattr(model, name, getattr(model, name) * 2)
    assert kept[0] == 2


@pytest.mark.parametrize("name", BUFFERS)
def test_a_buffer_of_another_size_or_dtype_is_refused(model, name):
    before = pickle.dumps(model)
    size = getattr(model, name).size
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \({size},\), got \(1,\)$"):
        setattr(model, name, np.zeros(1, np.float32))
    with pytest.raises(TypeError, match=f"^{name}: expected dtype float32, got float64$"):
        setattr(model, name, np.zeros(size))
    with pytest.raises(ValueError, match="cannot resize"):
        getattr(model, name).resize(1, refcheck=False)
    with pytest.raises(ValueError, match="cannot resize"):
        getattr(model, name).base.resize((1,), refcheck=False)
    assert all(part.startswith("_") for part in dir(getattr(model, name).base.base))
    getattr(model, name).shape = (1, -1)  # the attribute returns a view
    with pytest.raises(AttributeError):
        delattr(model, name)
    assert pickle.dumps(model) == before


def test_attributes_that_decide_sizes_of_memory_cannot_be_set(model):
    with pytest.raises(AttributeError):
        model.layout = fastbn.BatchNormMLP((6, 90, 4)).layout
    with pytest.raises(AttributeError):
        model.dtype = np.dtype(np.float64)
    with pytest.raises(ValueError, match="read-only"):
        model.layout.table[0, 1] = 900
    for changed in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        layout = changed.layout
        for field in dataclasses.fields(layout):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(layout, field.name, 1)
        for places in (layout.places, layout.statistics_places):
            with pytest.raises(TypeError):
                places["layers.0.gamma"] = (0, (1,))
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            layout.table.flags.writeable = True
        for table in (layout.table, layout.table.base):
            with pytest.raises(ValueError, match="cannot resize"):
                table.resize((1, 8), refcheck=False)


ARCHITECTURES = {
    "layer_sizes": (6, 900, 4),
    "batch_norm": False,
    "batch_norm_output": False,
    "input_normalization": None,
    "loss": "squared_error",
    "dtype": "float64",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_configuration_of_another_architecture_is_refused(model, name):
    other = dataclasses.replace(model.config, **{name: ARCHITECTURES[name]})
    with pytest.raises(ValueError, match=rf"^config\.{name}: expected the model's, .*, got "):
        model.config = other
    with pytest.raises(TypeError, match="config: expected a ModelConfig"):
        model.config = model.config.to_dict()
    model.config = dataclasses.replace(model.config, lr=0.5)
    assert model.config.lr == 0.5


def test_a_scaling_of_another_shape_is_refused(model):
    scaling = model.scaling
    for changes, message in [
        ({"center": np.zeros(3)}, r"scaling\.center: expected shape \(6,\), got \(3,\)"),
        (
            {"scale": np.ones(6, np.float32)},
            r"scaling\.scale: expected dtype float64, got float32",
        ),
        ({"mode": "minmax"}, r"scaling\.mode: expected 'zscore', got 'minmax'"),
        ({"is_fitted": 3}, r"scaling\.is_fitted: expected True or False, got 3"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            model.scaling = dataclasses.replace(scaling, **changes)
    with pytest.raises(TypeError, match="scaling: expected InputScaling, got None"):
        model.scaling = None
    assert model.scaling is scaling
    center = np.arange(6.0)
    model.scaling = dataclasses.replace(scaling, center=center)
    center[:] = -1
    assert model.scaling.center.tolist() == list(range(6))
    for made in (model, fastbn.BatchNormMLP(SIZES)):
        with pytest.raises(ValueError, match="cannot resize"):
            made.scaling.center.resize(1, refcheck=False)


def test_the_scaling_of_targets_is_copied_and_checked(rng):
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    model = fastbn.BatchNormMLP((3, 2), loss="squared_error", target_normalization="zscore")
    model.partial_fit(x, y)
    scaling = model.target_scaling
    for changes, message in [
        ({"center": np.zeros(3)}, r"target_scaling\.center: expected shape \(2,\), got \(3,\)"),
        ({"mode": None}, r"target_scaling\.mode: expected 'zscore', got None"),
        ({"is_fitted": 3}, r"target_scaling\.is_fitted: expected True or False, got 3"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            model.target_scaling = dataclasses.replace(scaling, **changes)
    with pytest.raises(TypeError, match="target_scaling: expected TargetScaling, got InputScaling"):
        model.target_scaling = model.scaling
    with pytest.raises(ValueError, match=r"config\.target_normalization: expected the model's"):
        model.config = dataclasses.replace(model.config, target_normalization=None)
    assert model.target_scaling is scaling
    center, snapshot = np.array([5.0, 6.0]), model.snapshot()
    model.target_scaling = dataclasses.replace(scaling, center=center)
    center[:] = -1
    assert model.target_scaling.center.tolist() == [5, 6]
    model.restore(snapshot)
    assert np.array_equal(model.target_scaling.center, scaling.center)
    for made in (model, fastbn.BatchNormMLP((3, 2)), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match="cannot resize"):
            made.target_scaling.center.resize(1, refcheck=False)


def test_a_scaling_that_is_edited_counts(model, data):
    before = model.predict_logits(data[0])
    model.scaling.center[:] += 1
    np.testing.assert_allclose(model.predict_logits(data[0] + 1), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [-1, 2**53 + 1, 1.5, True, None])
@pytest.mark.parametrize(("name", "before"), [("steps", 3), ("epochs", 0)])
def test_steps_and_epochs_are_counted_in_integers(model, name, before, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected an integer"):
        setattr(model, name, value)
    assert getattr(model, name) == before
    setattr(model, name, np.int32(7))
    assert type(getattr(model, name)) is int
    for same in (model, copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert getattr(same, name) == 7


# -- arguments of a call ---------------------------------------------------------------------------


def test_labels_that_a_callback_changes_are_those_that_were_checked():
    """This runs in another process, which would crash if kernels used such labels."""
    code = f"""
import numpy as np, fastbn
rng = np.random.default_rng(1)
x, y = rng.standard_normal((500, 6)).astype("f4"), rng.integers(0, 4, 500)
models = [fastbn.BatchNormMLP({SIZES}) for _ in range(2)]
kept = y.copy()
def callback(model, history):
    y[:] = 2**40
given = dict(epochs=3, batch_size=50, progress=False)
a = models[0].fit(x, y, validation_data=(x, y), callbacks=[callback], **given)
b = models[1].fit(x, kept, validation_data=(x, kept), **given)
assert a.loss == b.loss and a.val_loss == b.val_loss
assert np.array_equal(models[0].params, models[1].params)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "same"), done.stderr


def test_samples_that_were_scaled_differently_are_refused(data, rng):
    x, y = data[0], rng.standard_normal(120)
    step = np.arange(120), np.array([0, 120]), np.array([0.1])
    options = {"input_normalization": "zscore", "target_normalization": "zscore"}
    model = fastbn.BatchNormMLP((6, 9, 1), loss="squared_error", **options)
    early, shifted = training_samples(model, x, y, None), training_samples(model, x, y + 1, None)
    model.partial_fit(2 * x, y)
    with pytest.raises(
        ValueError, match=r"^samples\.inputs\.center: expected the model's scaling, got"
    ):
        model._engine.run_steps(early, *step)
    model = fastbn.BatchNormMLP((6, 9, 1), loss="squared_error", **options)
    model._engine.run_steps(early, *step)
    model._engine.run_steps(early, *step)
    with pytest.raises(
        ValueError, match=r"^samples\.outputs\.center: expected the model's scaling, got"
    ):
        model._engine.run_steps(shifted, *step)
    assert model.steps == 2


# -- copies and pickles ----------------------------------------------------------------------------


def former_state(model):
    """Return the state in a pickle of an earlier version."""
    names = (*BUFFERS, "config", "dtype", "layout", "scaling", "steps", "epochs", "metadata")
    return {name: getattr(model, name) for name in names}


def moved(array, kind):
    """Return the same numbers in memory that a kernel cannot use."""
    if kind == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if kind == "misaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype)
    elif kind == "strided":
        raw = np.zeros(2 * array.size, array.dtype)[::2]
    else:
        raw = np.zeros_like(array)
    raw[...] = array
    raw.flags.writeable = kind != "read-only"
    return raw


@pytest.mark.parametrize("kind", ["read-only", "big-endian", "misaligned", "strided"])
def test_a_model_of_any_memory_trains(data, model, kind):
    """joblib, pickles of protocol 5 and memory-mapped files lead to such memory."""
    state = former_state(model)
    for name in BUFFERS:
        state[name] = moved(state[name], kind)
    arrays = {name: moved(getattr(model.scaling, name), kind) for name in ("center", "scale")}
    state["scaling"] = dataclasses.replace(model.scaling, **arrays)
    state["note"] = "mine"
    other = fastbn.BatchNormMLP.__new__(fastbn.BatchNormMLP)
    other.__setstate__(state)
    assert other.note == "mine"
    assert_same(other, model)
    assert other.train_step(*data) == model.train_step(*data)
    assert_same(other, model)
    assert np.array_equal(other.predict_logits(data[0]), model.predict_logits(data[0]))


def test_a_pickle_of_other_shapes_is_refused(model):
    state = former_state(model) | {"m": np.zeros(3, np.float32)}
    other = fastbn.BatchNormMLP.__new__(fastbn.BatchNormMLP)
    with pytest.raises(ValueError, match=r"m: expected shape \(176,\), got \(3,\)"):
        other.__setstate__(state)


def test_out_of_band_pickles_of_read_only_memory(data, model):
    buffers = []
    head = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    assert buffers
    other = pickle.loads(head, buffers=[bytes(buffer) for buffer in buffers])
    assert other.train_step(*data) == model.train_step(*data)
    assert_same(other, model)


def test_joblib_maps_a_model(data, tmp_path):
    joblib = pytest.importorskip("joblib")
    model = fastbn.BatchNormMLP((6, 300, 300, 4))
    joblib.dump(model, tmp_path / "model")
    other = joblib.load(tmp_path / "model", mmap_mode="r")
    assert other.train_step(*data) == model.train_step(*data)
    assert_same(other, model)


def test_a_shallow_copy_is_a_model_of_its_own(data, model):
    model.metadata["list"] = [1]
    before = pickle.dumps(model)
    other = copy.copy(model)
    assert_same(other, model)
    other.train_step(*data)
    other.metadata["list"].append(2)
    assert (other.steps, model.steps) == (4, 3)
    assert pickle.dumps(model) == before


# -- scratch memory --------------------------------------------------------------------------------


def rows_of(spaces):
    """Return the most samples of each workspace, of training or of predictions."""
    return [(work.weight if hasattr(work, "weight") else work.order).size for work in spaces]


@pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")
def test_a_call_finds_the_scratch_memory_of_the_last_one(data, model, monkeypatch):
    monkeypatch.setenv("FASTBN_NUM_THREADS", "3")
    x = np.tile(data[0], (20, 1))
    model.predict(x)
    model.train_step(*data)
    for name in ("training_workspace", "prediction_workspace"):
        monkeypatch.setattr(workspaces, name, lambda *_: pytest.fail("allocated"))
    for rows in (1, 2400):
        model.predict(x[:rows])
    model.train_step(data[0][:2], data[1][:2])
    model.train_step(*data)


def test_memory_of_concurrent_predictions_is_freed(model):
    kept = model._engine.workspaces
    spaces = [kept.lend_to_prediction(512) for _ in range(32)]
    assert len({id(work) for work in spaces}) == 32
    for work in spaces:
        kept.take_back_all([work])
    assert rows_of(kept._of_predictions) == [512] * workspaces.KEPT
    team = [kept.lend_to_prediction(512) for _ in range(10)]
    kept.take_back_all(team)
    assert len(kept._of_predictions) == 10
    kept.take_back_all([kept.lend_to_prediction(1)])
    assert len(kept._of_predictions) == workspaces.KEPT


def test_predictions_in_many_threads_leave_little(model, data):
    threads = [threading.Thread(target=model.predict, args=(data[0],)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model._engine.workspaces._of_predictions) <= workspaces.KEPT


def test_scratch_memory_of_a_large_minibatch_is_given_back(model, data):
    model.partial_fit(np.tile(data[0], (50, 1)), np.tile(data[1], 50))
    kept = model._engine.workspaces
    assert rows_of(kept._of_training) == [6000]
    for _ in range(workspaces.UNNEEDED_CALLS - 1):
        model.predict(data[0])
    assert rows_of(kept._of_training) == [6000]
    model.predict(data[0])
    assert rows_of(kept._of_training) == []
    model.partial_fit(np.tile(data[0], (50, 1)), np.tile(data[1], 50))
    for _ in range(workspaces.UNNEEDED_CALLS):
        model.train_step(*data)
    assert rows_of(kept._of_training) == [120]


@pytest.mark.parametrize("name", ["input_is_fitted", "target_is_fitted"])
def test_without_a_normalization_there_is_nothing_to_fit(rng, name):
    model = fastbn.BatchNormMLP((3, 2), loss="squared_error")
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    model.partial_fit(x, y)
    said = model.predict(x)
    with pytest.raises(
        ValueError, match=rf"snapshot\['{name}'\]: expected True without a normalization, got False"
    ):
        model.restore(model.snapshot() | {name: False})
    attribute = "scaling" if name == "input_is_fitted" else "target_scaling"
    scaling = dataclasses.replace(getattr(model, attribute), is_fitted=False)
    with pytest.raises(ValueError, match=rf"^{attribute}\.is_fitted: expected True without a"):
        setattr(model, attribute, scaling)
    data = x if attribute == "scaling" else y
    assert scaling.fit(data, None, None) is scaling
    assert np.array_equal(model.predict(x), said)
