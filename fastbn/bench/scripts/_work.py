"""Shared by the scripts: the network's constants and the files of Fashion-MNIST, without fastbn.

Each script runs in its own process and is written as a user of its framework would write it.
Initial weights and the order of samples are those of fastbn, so all sides need the same number of
steps.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import pathlib
import sys
from typing import Any, Protocol

import numpy as np

SLOPE, EPS, MOMENTUM = 0.01, 1e-5, 0.1
LR, BETA1, BETA2, ADAM_EPS = 0.05, 0.9, 0.99, 1e-8
HIDDEN, CLASSES, MINIBATCHES = 32, 10, 10
MOST_EPOCHS, ENOUGH = 150, 0.9
FIRST_SIZES, FIRST_BATCH = (64, 128, 10), 64


class Net(Protocol):
    """The class that a script defines."""

    def __init__(self, weights: list[np.ndarray], constants: Any) -> None:
        """Start with these weights; `constants` has SLOPE to ADAM_EPS, as this module."""

    def step(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        """Take a step on x (samples, features) float32; return the loss before it, and hits."""

    def take(self, X: np.ndarray, y: np.ndarray, center: np.ndarray, scale: np.ndarray) -> None:
        """Store the training data X (samples, pixels) uint8, and its scaling (pixels,) float32."""

    def epoch(self, order: np.ndarray) -> int:
        """Train on the minibatches `order` (steps, rows); return the number of hits."""

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the accuracy on X uint8, with the running statistics."""

    def save(self, path: str) -> None:
        """Write parameters and running statistics."""


def main(net: type[Net]) -> None:
    """Run ``SCRIPT first-step`` or ``SCRIPT fashion-mnist FOLDER OUT``, and print JSON."""
    constants = sys.modules[__name__]
    if sys.argv[1] == "first-step":
        loss, _ = net(weights(FIRST_SIZES), constants).step(*first_batch())
        print(json.dumps({"loss": float(loss)}))
    else:
        folder, out = sys.argv[2:]
        print(json.dumps(train(net, constants, folder, out)))


def train(net_type: type[Net], constants: Any, folder: str, out: str) -> dict[str, float]:
    """Train until the training accuracy is above ENOUGH; test and save."""
    X, X_test = (read(folder, f"{part}-images-idx3-ubyte", 3) for part in ("train", "t10k"))
    y, y_test = (
        read(folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int64) for part in ("train", "t10k")
    )
    n, pixels = X.shape
    low, high = X.min(axis=0), X.max(axis=0)
    net = net_type(weights((pixels, HIDDEN, CLASSES)), constants)
    net.take(X, y, low.astype(np.float32), 1 / np.maximum(high - low, 1).astype(np.float32))
    for epoch in range(MOST_EPOCHS):
        accuracy = net.epoch(order(epoch, n)) / n
        if accuracy > ENOUGH:
            break
    test_accuracy = net.accuracy(X_test, y_test)
    net.save(out)
    steps = (epoch + 1) * MINIBATCHES
    return {"steps": steps, "accuracy": accuracy, "test_accuracy": test_accuracy}


def weights(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Return the initial weights (out, in) of every layer, float32."""
    generator = np.random.default_rng(0)
    gain = 2.0 / (1.0 + SLOPE**2)
    return [
        (generator.standard_normal((n_out, n_in)) * math.sqrt(gain / n_in)).astype(np.float32)
        for n_in, n_out in itertools.pairwise(sizes)
    ]


def first_batch() -> tuple[np.ndarray, np.ndarray]:
    """Return x (samples, features) float32 and y (samples,) int64."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((FIRST_BATCH, FIRST_SIZES[0]), np.float32)
    return x, generator.integers(0, FIRST_SIZES[-1], FIRST_BATCH)


def order(epoch: int, n: int) -> np.ndarray:
    """Return an epoch's shuffled minibatches: (MINIBATCHES, rows) row numbers."""
    return np.random.default_rng([0, epoch]).permutation(n).reshape(MINIBATCHES, -1)


def read(folder: str, name: str, dimensions: int) -> np.ndarray:
    """Read an IDX file, gzipped or not; each image is a row."""
    packed = pathlib.Path(folder, f"{name}.gz")
    if packed.is_file():
        data = gzip.decompress(packed.read_bytes())
    else:
        data = pathlib.Path(folder, name).read_bytes()
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    array = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    return array.reshape(shape[0], -1) if dimensions > 1 else array
