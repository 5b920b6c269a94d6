"""Predictions keep packed weights, and notice whatever changes the parameters."""

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
    predict_and_keep(model, data[0])
    return model


def keeps_packed(model):
    return bool(model._engine.packed.kept)


def predict_and_keep(model, x):
    logits = model.predict_logits(x[:1])
    assert keeps_packed(model)
    return logits


def assert_as_a_new_model(model, x):
    """Compare predictions with those of a model that has never packed anything."""
    new = fastbn.BatchNormMLP(SIZES)
    new.restore(model.snapshot())
    expected = new.predict_logits(x)
    for rows in (1, 1, len(x)):
        assert np.array_equal(model.predict_logits(x[:rows]), expected[:rows])


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
        rows = np.concatenate([model.predict_logits(x[n : n + 1]) for n in range(9)])
        assert np.array_equal(rows, together)
        assert keeps_packed(model)


@pytest.mark.parametrize("options", [{}, {"input_normalization": "zscore"}, {"dtype": "float64"}])
def test_data_that_are_read_in_place_and_others(rng, options):
    """Data of the model's dtype are multiplied where they are, unless they have to be scaled."""
    model = fastbn.BatchNormMLP((31, 40, 5), **options)
    x = rng.integers(0, 256, (70, 31), np.uint8)
    model.partial_fit(x, np.arange(70) % 5)
    expected = model.predict_logits(x)
    for given in (x.astype(model.config.dtype), np.asfortranarray(x), x[::-1][::-1]):
        for rows in (70, 9, 1):
            before = given[:rows].copy()
            assert np.array_equal(model.predict_logits(given[:rows]), expected[:rows])
            assert np.array_equal(given[:rows], before)


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


def train_and_restore(model):
    before = model.snapshot()
    train(model)
    model.restore(before)


def fail_to_allocate(*_):
    raise MemoryError


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
    assert not keeps_packed(model)
    assert_as_a_new_model(model, data[0])
    assert keeps_packed(model)


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
def test_nothing_is_kept_while_a_view_exists(model, data, keep):
    kept = keep(model)
    for _ in range(3):
        model.predict(data[0][:1])
        assert not keeps_packed(model)
    if isinstance(kept, np.ndarray):
        for factor in (0.5, -3.0):
            kept *= factor
            assert_as_a_new_model(model, data[0])
    del kept
    predict_and_keep(model, data[0])


def test_a_change_while_another_thread_packs_is_noticed(model, data, monkeypatch):
    pack = kernels.pack_weights

    def change_after_packing(*arguments):
        pack(*arguments)
        monkeypatch.setattr(kernels, "pack_weights", pack)
        model.train_step(*data)

    train(model)
    monkeypatch.setattr(kernels, "pack_weights", change_after_packing)
    logits = model.predict_logits(data[0][:1])
    assert model.steps == 6  # the change was made
    assert_as_a_new_model(model, data[0])
    assert np.array_equal(logits, model.predict_logits(data[0][:1]))


def assign_half(model, view):
    model.params = model.params * 0.5


def write_half(model, view):
    view *= 0.5


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize(
    ("change", "keeps_view"), [(assign_half, False), (assign_half, True), (write_half, True)]
)
def test_a_signal_handler_that_changes_the_parameters_during_a_prediction(
    model, data, monkeypatch, change, keeps_view, rows
):
    """A prediction never mixes packed weights of one moment with parameters of another one."""
    infer, view = kernels.infer_logits, model.params if keeps_view else None

    def change_and_infer(*arguments):
        change(model, view)
        infer(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "infer_logits", change_and_infer)
        logits = model.predict_logits(data[0][:rows])
    assert np.array_equal(logits, model.predict_logits(data[0])[:rows])


def test_threads_that_pack_at_once_keep_one_copy(model, data, monkeypatch):
    pack, number = kernels.pack_weights, itertools.count()

    def pack_twice(*arguments):
        if next(number) == 0:
            model.predict(data[0][:1])  # as another thread would
        pack(*arguments)

    train(model)
    monkeypatch.setattr(kernels, "pack_weights", pack_twice)
    predict_and_keep(model, data[0])
    assert next(number) == 2
    assert len(model._engine.packed.kept) == 1
    assert_as_a_new_model(model, data[0])


def test_without_memory_for_packed_weights_the_model_stays_as_it_was(model, data, monkeypatch):
    expected = model.predict_logits(data[0])
    train_and_restore(model)
    with monkeypatch.context() as patch:
        patch.setattr(packed_weights, "aligned_zeros", fail_to_allocate)
        with pytest.raises(MemoryError):
            model.predict_logits(data[0])
    assert np.array_equal(model.predict_logits(data[0]), expected)


def test_packed_weights_are_freed_before_a_fit_allocates(model, data, monkeypatch):
    def allocate_without_them(*arguments):
        assert not keeps_packed(model)
        return allocate(*arguments)

    allocate = workspaces.training_workspace
    monkeypatch.setattr(workspaces, "training_workspace", allocate_without_them)
    model.fit(np.tile(data[0], (9, 1)), np.tile(data[1], 9), epochs=1, batch_size=300)


def test_a_kept_interruption_does_not_keep_the_view(model, data, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "train_steps", interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:
            model.train_step(*data)
    predict_and_keep(model, data[0])
    assert kept.value.__traceback__ is not None


def test_copies_and_files_predict_the_same(model, data):
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    expected = model.predict_logits(data[0])[:1]
    for other in (copy.deepcopy(model), fastbn.BatchNormMLP.load(file)):
        assert np.array_equal(predict_and_keep(other, data[0]), expected)
        train(other)
        assert_as_a_new_model(other, data[0])
    assert keeps_packed(model) is False  # saving read its parameters
    assert np.array_equal(predict_and_keep(model, data[0]), expected)
