"""The memory of a fit: the formula, and data that are not copied."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.parallel.costs import measured_costs


def peak_of(call):
    if not JIT_DISABLED:
        measured_costs()  # once per process, loads a kernel
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
@pytest.mark.parametrize("x_dtype", ["float64", "int64", "int16"])
def test_data_in_fortrans_order_are_copied_once(rng, x_dtype):
    n = 50_000
    x = np.asfortranarray(rng.integers(0, 9, (n, 40)).astype(x_dtype))
    y = np.arange(n) % 2

    def train(n):
        model = fastbn.BatchNormMLP((40, 8, 2))
        model.fit(x[:n], y[:n], epochs=1, batch_size=100, progress=False)
        return model

    expected = train(200).fit_bytes(n, 100, x_dtype=x_dtype)
    assert peak_of(lambda: train(n)) <= 1.1 * expected


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
def test_orders_of_epochs_are_not_kept(rng):
    x, y = rng.uniform(0, 9, (100_000, 2)).astype(np.float32), np.arange(100_000) % 2
    model = fastbn.BatchNormMLP((2, 2))

    def train(n):
        model.fit(x[:n], y[:n], epochs=20, batch_size=10_000, progress=False)

    train(1000)
    assert peak_of(lambda: train(len(x))) < 1.1 * model.fit_bytes(len(x), 10_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10), "n_samples: expected an integer of at least 1, got 0"),
        ((10, 1), "batch_size: expected an integer of at least 2, got 1"),
        ((10, 5, "yes"), "sample_weight: expected True or False, got 'yes'"),
    ],
)
def test_mistakes(arguments, message):
    n, batch, *rest = arguments
    options = {"sample_weight": rest[0]} if rest else {}
    with pytest.raises((ValueError, TypeError), match=message):
        fastbn.BatchNormMLP((4, 3)).fit_bytes(n, batch, **options)


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
@pytest.mark.parametrize("mode", [None, "zscore", "minmax"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_read_only_file_is_not_copied(rng, tmp_path, dtype, weighted, mode):
    x = rng.integers(0, 200, (40_000, 64)).astype(dtype)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", dtype, "r", shape=x.shape)
    y = np.arange(len(x)) % 2
    weight = rng.uniform(0.5, 2, len(x)).astype("f4") if weighted else None

    def model_of(x, n):
        model = fastbn.BatchNormMLP((64, 8, 2), input_normalization=mode, weighted=weighted)
        model.fit(
            x[:n], y[:n], epochs=1, batch_size=64, progress=False,
            sample_weight=None if weight is None else weight[:n],
            validation_data=(x[:n], y[:n]),
        )  # fmt: skip
        return model

    expected = model_of(x, len(x))
    models = []
    peak = peak_of(lambda: models.append(model_of(mapped, len(x))))
    assert np.array_equal(models[0].params, expected.params)
    assert np.array_equal(models[0].predict_logits(mapped), expected.predict_logits(x))
    copy = x.size * (4 if dtype == "uint8" else x.itemsize)
    assert peak < copy * 0.6


# Fits for which one term of the formula is large: sizes, samples, batch, validation samples,
# threads, and options.
TERMS = {
    "parameters": ((1000, 1000, 10), 64, 32, 0, 1, {}),
    "the best": ((1000, 1000, 10), 64, 32, 0, 1, {"early_stopping": True}),
    "samples": ((2, 2), 400_000, 4000, 0, 1, {}),
    "weights": ((2, 2), 400_000, 4000, 0, 1, {"sample_weight": True}),
    "weights, validated": ((2, 2), 400_000, 4000, 200_000, 1, {"sample_weight": True}),
    "validated": ((2, 2), 1000, 100, 400_000, 1, {}),
    "converted": ((50, 2), 1000, 100, 100_000, 1, {"x_dtype": "int16"}),
    "threads": ((5000, 2), 64, 32, 0, 3, {}),
    "teams of inference": ((20, 400, 400, 2), 64, 32, 4096, 3, {}),
    "rows of inference": ((20, 400, 400, 2), 64, 32, 1000, 1, {}),
    "a bit of all": (
        (100, 512, 512, 4), 4000, 500, 4000, 2, {"early_stopping": True, "x_dtype": "float32"},
    ),
    "a bit of all, converted": (
        (100, 512, 512, 4), 4000, 500, 4000, 2, {"early_stopping": True, "x_dtype": "int16"},
    ),
    "numbers": ((2, 200), 10_000, 32, 0, 1, {"loss": "squared_error"}),
    "numbers, compared": ((20, 400, 400, 1), 4000, 32, 0, 3, {"loss": "squared_error"}),
}  # fmt: skip


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
@pytest.mark.filterwarnings("ignore:the fit ends worse than the mean")
@pytest.mark.parametrize("name", TERMS)
def test_every_term_of_the_formula(rng, monkeypatch, name):
    sizes, n, batch, validated, threads, options = TERMS[name]
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    rows = max(n, validated)
    x = rng.integers(0, 9, (rows, sizes[0])).astype(options.get("x_dtype", "float32"))
    y = rng.integers(0, 2, rows, np.int32)
    loss = options.get("loss", "softmax_cross_entropy")
    if loss == "squared_error":
        y = rng.standard_normal((rows, sizes[-1]))
    weight = np.ones(n)

    def train(n, validated):
        model = fastbn.BatchNormMLP(sizes, loss=loss)
        model.fit(
            x[:n], y[:n], epochs=2, batch_size=min(n, batch), progress=False,
            sample_weight=weight[:n] if "sample_weight" in options else None,
            early_stopping=fastbn.EarlyStopping(5, "loss") if "early_stopping" in options else None,
            validation_data=(x[:validated], y[:validated]) if validated else None,
        )  # fmt: skip
        return model

    model = train(32, min(validated, 32))
    options = {option: value for option, value in options.items() if option != "loss"}
    expected = model.fit_bytes(n, batch, validation_samples=validated, **options)
    assert peak_of(lambda: train(n, validated)) == pytest.approx(expected, rel=0.1)


CALLS = {
    "train_step": lambda model, x, y: model.train_step(x, y),
    "partial_fit": lambda model, x, y: model.partial_fit(x, y, batch_size=16),
    "predict_proba": lambda model, x, y: model.predict_proba(x),
    "evaluate": lambda model, x, y: model.evaluate(x, y),
    "fit": lambda model, x, y: model.fit(
        x, y, epochs=2, batch_size=16, validation_data=(x, y), progress=False
    ),
}


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
@pytest.mark.parametrize("name", CALLS)
def test_a_thousand_calls_leave_nothing_behind(rng, name):
    model = fastbn.BatchNormMLP((8, 16, 3), input_normalization="zscore")
    x, y = rng.standard_normal((64, 8)).astype(np.float32), rng.integers(0, 3, 64)
    model.train_step(x, y)
    tracemalloc.start()
    try:
        for _ in range(100):
            CALLS[name](model, x, y)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            CALLS[name](model, x, y)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 150_000  # mostly Python's own lists of free tuples
