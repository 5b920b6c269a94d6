"""Measure what numbers below the normal ones cost, and that training does not pay.

Adam's moments of dead units decay until they are denormal, and stay so: 0.9 times the smallest
denormal rounds to itself. Times a step of Adam alone, which takes numbers as they come, and a
training step, which computes without denormals, each with moments of ordinary size and with
denormal ones. Medians of nine, in turns, in both orders: ``python scripts/denormals.py``.
"""

import numpy as np

import fastbn
from fastbn.bench._timing import interleave

DENORMAL = 1e-40
SIZE = 1 << 16


def adam(moment):
    """Return a function that takes Adam steps from moments of that size."""
    params, grads = np.ones(SIZE, np.float32), np.zeros(SIZE, np.float32)
    m, v = (np.full(SIZE, moment, np.float32) for _ in range(2))

    def run(count):
        for _ in range(count):
            m[:], v[:] = moment, moment
            fastbn.adam_step(params, grads, m, v, step=1000)

    return run


def training(moment):
    """Return a function that takes training steps from moments of that size."""
    model = fastbn.BatchNormMLP((256, 256, 10))
    rng = np.random.default_rng(0)
    X, y = np.zeros((64, 256), np.float32), rng.integers(0, 10, 64)
    X[:, 0] = rng.standard_normal(64)  # all other columns are dead

    def run(count):
        for _ in range(count):
            model.m[:], model.v[:] = moment, moment
            model.train_step(X, y)

    return run


def main():
    """Print the times, and how often each kind takes the ordinary one's."""
    for name, make in (("Adam, 65,536 parameters", adam), ("training step", training)):
        times = interleave({"ordinary": make(1e-3), "denormal": make(DENORMAL)})
        ordinary, denormal = (times[kind].median * 1e6 for kind in ("ordinary", "denormal"))
        print(
            f"{name}: {ordinary:.0f} us with ordinary moments, "
            f"{denormal:.0f} us with denormal ones, {denormal / ordinary:.2f} times as much"
        )


if __name__ == "__main__":
    main()
