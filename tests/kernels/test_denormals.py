"""Denormal numbers: training makes none, and restores the processor's mode."""

from __future__ import annotations

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.jit.compiler import njit
from fastbn.jit.intrinsics import flush_denormals, restore_denormals
from fastbn.jit.isa import IS_X86
from fastbn.model.inputs import training_samples

pytestmark = [
    pytest.mark.skipif(JIT_DISABLED, reason="Python has no say in the processor's modes"),
    pytest.mark.skipif(not IS_X86, reason="only x86 needs help with denormals"),
]

SIZES = (6, 5, 3)
N = 32
DEAD = 3  # inputs that are zero after the first steps
STEPS = 1500  # 0.9**1500 is 1e-69; the smallest normal number is 1e-38, the smallest of all 1e-45

# The moments that decay: Adam's first by 0.9 as usual, the second faster than usual.
OPTIMIZERS = [
    ({"betas": (0.9, 0.9)}, "mv"),
    ({"optimizer": "sgd", "lr": 0.05}, "m"),
    ({"optimizer": "rmsprop", "betas": (0.9, 0.9)}, "v"),
]


def n_denormals(array):
    return int(((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)).sum())


def makes_denormals():
    """Return whether this thread computes with denormals, which is a mode of the processor."""
    return bool((np.full(64, 1e-40, np.float32) * np.float32(0.5)).all())


def make_data(rng):
    return rng.standard_normal((N, SIZES[0])).astype(np.float32), np.arange(N) % SIZES[-1]


def run_steps(model, x, y, steps):
    samples = training_samples(model, x, y, None)
    order, bounds = np.tile(np.arange(N), steps), np.arange(steps + 1) * N
    model._engine.run_steps(samples, order, bounds, np.full(steps, model.config.lr))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("options", "moments"), OPTIMIZERS)
def test_a_long_training_makes_no_denormals(rng, monkeypatch, options, moments, threads):
    """Without flushing to zero, the moments of every dead weight end at 6e-45 and stay there."""
    monkeypatch.setenv("FASTBN_NUM_THREADS", str(threads))
    x, y = make_data(rng)
    model = fastbn.BatchNormMLP(SIZES, **options)
    run_steps(model, x, y, 3)
    dead = {
        name: dict(model.layout.named_views(getattr(model, name)))["layers.0.weight"][:, :DEAD]
        for name in moments
    }
    assert all(values.all() for values in dead.values())
    x[:, :DEAD] = 0
    run_steps(model, x, y, STEPS)
    for name in ("params", "grads", "m", "v", "running_mean", "running_var"):
        assert n_denormals(getattr(model, name)) == 0, name
    assert not any(values.any() for values in dead.values())


def test_denormals_are_counted():
    """NumPy functions use the caller's mode, so the same decay ends in denormals."""
    param, grad = np.ones(64, np.float32), np.zeros(64, np.float32)
    m, v = np.full(64, 1e-3, np.float32), np.full(64, 1e-6, np.float32)
    for step in range(1, STEPS + 1):
        fastbn.adam_step(param, grad, m, v, step=step, betas=(0.9, 0.9))
    assert n_denormals(m) == 64
    assert n_denormals(v) == 64


def train(x, y):
    fastbn.BatchNormMLP(SIZES).fit(x, y, epochs=2, batch_size=8, progress=False)


def predict(x, y):
    fastbn.BatchNormMLP(SIZES).predict(x)


@njit
def begin():
    return flush_denormals()


@njit
def end(mode):
    restore_denormals(mode)


@pytest.mark.parametrize("call", [train, predict])
def test_the_callers_mode_is_as_before(rng, monkeypatch, call):
    monkeypatch.setenv("FASTBN_NUM_THREADS", "1")  # the one thread is the caller's
    x, y = make_data(rng)
    call(x, y)
    assert makes_denormals()
    mode = begin()  # a caller's mode without denormals stays
    try:
        call(x, y)
        flushed = not makes_denormals()
    finally:
        end(mode)
    assert flushed
    assert makes_denormals()
