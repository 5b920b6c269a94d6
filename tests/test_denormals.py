"""Numbers below the normal ones: training makes none, and leaves the processor's mode alone."""

from __future__ import annotations

import numpy as np
import pytest
from cases import JIT_DISABLED

from fastbn import BatchNormMLP
from fastbn._intrinsics import IS_X86

pytestmark = [
    pytest.mark.skipif(JIT_DISABLED, reason="Python has no say in the processor's modes"),
    pytest.mark.skipif(not IS_X86, reason="only x86 needs help with denormals"),
]


def n_denormals(array):
    return int(((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)).sum())


def train_with_dying_inputs(model, rng, steps):
    """Inputs that are there in the first step alone: moments of their weights decay ever after."""
    X, y = rng.standard_normal((32, 6)).astype(np.float32), np.arange(32) % 3
    model.train_step(X, y)
    assert np.count_nonzero(model.m) > 0
    X[:, :3] = 0
    for _ in range(steps):
        model.train_step(X, y)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_training_makes_no_denormals(rng, monkeypatch, threads):
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    model = BatchNormMLP((6, 5, 3), betas=(0.9, 0.9))
    train_with_dying_inputs(model, rng, 1000)  # 0.9**1000 is 1e-46; the smallest normal is 1e-38
    for array in (model.params, model.grads, model.m, model.v):
        assert n_denormals(array) == 0
    moments = dict(model.layout.named_views(model.m))["layers.0.weight"]
    assert (moments[:, :3] == 0).all()  # they have passed through where denormals would be
    assert (moments[:, 3:] != 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_callers_mode_is_as_before(rng, monkeypatch, threads):
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    tiny = np.full(64, 1e-40, np.float32)
    model = BatchNormMLP((6, 5, 3))
    for call in (
        lambda: train_with_dying_inputs(model, rng, 1),
        lambda: model.predict(rng.standard_normal((9, 6)).astype(np.float32)),
    ):
        call()
        assert ((tiny * np.float32(0.5)) != 0).all()
