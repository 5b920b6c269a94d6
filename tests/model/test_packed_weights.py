"""Predictions of one sample use packed weights, and notice whatever changes the parameters."""

from __future__ import annotations

import copy
import io
import itertools

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.kernels import network as kernels
from fastbn.model import packed_weights, workspaces

SIZES = (33, 65, 7, 3)

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python loops take minutes")


@pytest.fixture
def data(rng):
    return rng.standard_normal((40, 33)).astype(np.float32), rng.integers(0, 3, 40)


@pytest.fixture
def model(data):
    model = fastbn.BatchNormMLP(SIZES)
    model.fit(*data, epochs=2, batch_size=20)
    predict_until_packed(model, data[0])
    return model


def is_packed(model):
    return any(panels.size for panels in model._engine.packed._kept)


def predict_until_packed(model, x):
    for _ in range(2):
        logits = model.predict_logits(x[:1])
    assert is_packed(model)
    return logits


def assert_as_a_new_model(model, x):
    """Compare predictions of one row with those of a model that has never packed anything."""
    new = fastbn.BatchNormMLP(SIZES)
    new.restore(model.snapshot())
    for _ in range(3):
        assert np.array_equal(model.predict_logits(x[:1]), new.predict_logits(x)[:1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "sizes", [(1, 2), (5, 1, 2), (31, 33, 2), (257, 32, 64, 10), (1000, 1, 31, 17)]
)
@pytest.mark.parametrize("options", [{}, {"batch_norm": False}, {"activation": "tanh"}])
def test_bits_of_one_row(rng, sizes, dtype, options):
    model = fastbn.BatchNormMLP(sizes, dtype=dtype, **options)
    for x in (rng.standard_normal((9, sizes[0])), rng.integers(0, 256, (9, sizes[0]))):
        x = x.astype(np.uint8 if x.dtype.kind == "i" else dtype)
        together = model.predict_logits(x)
        for _ in range(2):
            rows = np.concatenate([model.predict_logits(x[n : n + 1]) for n in range(9)])
            assert np.array_equal(rows, together)
        assert is_packed(model)


def write_in_place(model):
    model.params[:] *= 0.5


def write_a_weight(model):
    next(view for name, view in model.named_parameters() if name.endswith("weight"))[0] = 1.0


def assign(model):
    model.params = model.params * 0.5


def restore(model):
    other = fastbn.BatchNormMLP(SIZES, seed=7)
    model.restore(other.snapshot())


def diverge(model):
    x = np.full((3, 33), 3e38, np.float32) * [[1], [-1], [1]]
    with pytest.raises(fastbn.DivergenceError):
        model.train_step(x.astype(np.float32), [0, 1, 2])


def train(model):
    model.train_step(np.eye(33, dtype=np.float32)[:9], np.arange(9) % 3)


def fit_and_stop_early(model):
    x, y = np.eye(33, dtype=np.float32), np.arange(33) % 3
    stopping = fastbn.EarlyStopping(patience=1)
    model.fit(x, y, epochs=5, batch_size=11, validation_data=(x, y), early_stopping=stopping)


@pytest.mark.parametrize(
    "change",
    [write_in_place, write_a_weight, assign, restore, diverge, train, fit_and_stop_early],
)
def test_a_change_of_the_parameters_counts_in_the_next_prediction(model, data, change):
    change(model)
    assert not is_packed(model)
    assert_as_a_new_model(model, data[0])
    assert is_packed(model)


@pytest.mark.parametrize(
    "keep",
    [
        lambda model: model.params,
        lambda model: model.params[3:][::2],
        lambda model: memoryview(model.params),
        lambda model: dict(model.named_parameters()),
        lambda model: model.named_parameters(),
    ],
    ids=["array", "view of a view", "memoryview", "tensors", "iterator"],
)
def test_nothing_is_packed_while_a_view_exists(model, data, keep):
    kept = keep(model)
    for _ in range(3):
        model.predict(data[0][:1])
        assert not is_packed(model)
    if isinstance(kept, np.ndarray):
        for factor in (0.5, -3.0):
            kept *= factor
            assert_as_a_new_model(model, data[0])
    del kept
    predict_until_packed(model, data[0])


def test_a_change_while_another_thread_packs_is_noticed(model, data, monkeypatch):
    pack = kernels.pack_weights

    def change_after_packing(*arguments):
        pack(*arguments)
        monkeypatch.setattr(kernels, "pack_weights", pack)
        model.train_step(*data)

    train(model)
    monkeypatch.setattr(kernels, "pack_weights", change_after_packing)
    for _ in range(2):
        model.predict(data[0][:1])
    assert model.steps == 6  # the change was made
    assert not is_packed(model)
    assert_as_a_new_model(model, data[0])


def test_a_signal_handler_that_changes_the_parameters_during_a_prediction(model, data, monkeypatch):
    infer = kernels.infer_logits

    def change_and_infer(*arguments):
        monkeypatch.setattr(kernels, "infer_logits", infer)
        model.params = model.params * 0.5
        infer(*arguments)

    monkeypatch.setattr(kernels, "infer_logits", change_and_infer)
    row = model.predict_logits(data[0][:1])
    assert np.array_equal(row, model.predict_logits(data[0])[:1])


def test_threads_that_pack_at_once_keep_one_copy(model, data, monkeypatch):
    pack, number = kernels.pack_weights, itertools.count()

    def pack_twice(*arguments):
        if next(number) == 0:
            model.predict(data[0][:1])  # as another thread would
        pack(*arguments)

    train(model)
    monkeypatch.setattr(kernels, "pack_weights", pack_twice)
    predict_until_packed(model, data[0])
    assert next(number) == 2
    assert sum(panels.size > 0 for panels in model._engine.packed._kept) == 1
    assert_as_a_new_model(model, data[0])


def test_without_memory_nothing_is_packed(model, data, monkeypatch):
    def fail(*_):
        tried.append(1)
        raise MemoryError

    tried = []
    train(model)
    monkeypatch.setattr(packed_weights, "aligned_zeros", fail)
    for _ in range(4):
        row = model.predict_logits(data[0][:1])
    assert tried == [1]
    assert np.array_equal(row, model.predict_logits(data[0])[:1])


def test_packed_weights_are_freed_before_a_fit_allocates(model, data, monkeypatch):
    def train_unpacked(*arguments):
        assert not is_packed(model)
        return allocate(*arguments)

    allocate = workspaces.training_workspace
    monkeypatch.setattr(workspaces, "training_workspace", train_unpacked)
    model.fit(np.tile(data[0], (9, 1)), np.tile(data[1], 9), epochs=1, batch_size=300)


def test_a_kept_interruption_does_not_keep_the_view(model, data, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "train_steps", interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:
            model.train_step(*data)
    predict_until_packed(model, data[0])
    assert kept.value.__traceback__ is not None


def test_a_model_that_trains_between_predictions_packs_nothing(data, monkeypatch):
    monkeypatch.setattr(kernels, "pack_weights", lambda *_: pytest.fail("packed"))
    model = fastbn.BatchNormMLP(SIZES)
    for _ in range(5):
        model.train_step(*data)
        model.predict(data[0][:1])


def test_copies_and_files_predict_the_same(model, data):
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    expected = model.predict_logits(data[0])[:1]
    for other in (copy.deepcopy(model), fastbn.BatchNormMLP.load(file)):
        assert np.array_equal(predict_until_packed(other, data[0]), expected)
        train(other)
        assert_as_a_new_model(other, data[0])
    assert is_packed(model) is False  # saving read its parameters
    assert np.array_equal(predict_until_packed(model, data[0]), expected)
