"""What a fit takes: the formula, and data that stays where it is."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn import _last_good


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(JIT_DISABLED, reason="Python loops allocate")
@pytest.mark.parametrize("x_dtype", ["float32", "int16"])
def test_fit_bytes(rng, monkeypatch, x_dtype):
    monkeypatch.setattr(_last_good, "SELDOM", 0.0)  # a snapshot whenever one may be taken
    sizes, n, batch = (100, 512, 512, 4), 4000, 500
    x, y = rng.integers(0, 9, (n, 100)).astype(x_dtype), rng.integers(0, 4, n).astype(np.int32)

    def train(n):
        model = fastbn.BatchNormMLP(sizes)
        model.fit(
            x[:n], y[:n], epochs=2, batch_size=min(n, batch), progress=False, early_stopping=5,
            validation_data=(x[:n], y[:n]),
        )  # fmt: skip
        return model

    model = train(64)
    expected = model.fit_bytes(n, batch, x_dtype=x_dtype, validation_samples=n, early_stopping=True)
    assert peak_of(lambda: train(n)) == pytest.approx(expected, rel=0.1)


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
