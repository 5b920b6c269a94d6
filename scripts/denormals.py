"""Measure what numbers below the normal ones cost, and that training does not pay.

A step of Adam alone, which takes numbers as they come, with gradients and moments of ordinary size,
with zeros, and with denormal moments; and a training step, which computes without denormals, from
moments of zero and from denormal ones. One thread, medians of nine, in turns, in both orders. Run
it as ``python scripts/denormals.py`` on a machine that does nothing else.
"""

import os

os.environ["FASTBN_NUM_THREADS"] = "1"

import numpy as np

import fastbn
from fastbn.bench._timing import interleave
from fastbn.model.inputs import training_samples

FLOAT = np.dtype(np.float32)
DENORMAL = 1e-40
PARAMETERS = 1 << 16
INPUTS, LIVE, BATCH = 784, 28, 128


def adam(gradient, m, v):
    """Return a function that takes steps of Adam; the moments keep their kind."""
    arrays = [np.full(PARAMETERS, value, FLOAT) for value in (1, gradient, m, v)]

    def run(count):
        for _ in range(count):
            fastbn.adam_step(*arrays, step=1000)

    return run


def training(moment):
    """Return a function that trains from such moments, on data whose inputs are zero but for some.

    The weights of the others have no gradient: their moments decay, from denormal to denormal.
    """
    model = fastbn.BatchNormMLP((INPUTS, 256, 128, 10))
    rng = np.random.default_rng(1)
    x, y = np.zeros((BATCH, INPUTS), FLOAT), rng.integers(0, 10, BATCH)
    x[:, :LIVE] = rng.standard_normal((BATCH, LIVE))
    samples = training_samples(model, x, y)

    def run(count):
        model.m[:], model.v[:] = moment, moment
        order, bounds = np.tile(np.arange(BATCH), count), np.arange(count + 1) * BATCH
        model._engine.run_steps(samples, order, bounds, np.full(count, 1e-3))

    return run


def main():
    """Print the times of each kind of step."""
    kinds = {
        f"Adam, {PARAMETERS:,} parameters": {
            "ordinary": adam(1e-3, 1e-3, 1e-6),
            "zero": adam(0, 0, 0),
            "denormal": adam(0, DENORMAL, DENORMAL),
        },
        f"training step, {INPUTS}-256-128-10 @ {BATCH}": {
            "zero": training(0),
            "denormal": training(DENORMAL),
        },
    }
    for name, runs in kinds.items():
        for moments, timing in interleave(runs).items():
            micros = f"{timing.median * 1e6:,.0f} us +- {timing.spread:.0%}"
            print(f"{name}, {moments} moments: {micros}", flush=True)


if __name__ == "__main__":
    main()
