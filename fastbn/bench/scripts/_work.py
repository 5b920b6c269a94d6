"""What the scripts share: a net, its recipe and Fashion-MNIST's files, without fastbn.

Every script is a process of its own, as a user of its framework would write it. Weights and orders
of the samples are those that fastbn draws: all sides learn alike, and are done after as many steps.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

SLOPE, EPS, MOMENTUM = 0.01, 1e-5, 0.1
LR, BETA1, BETA2, ADAM_EPS = 0.05, 0.9, 0.99, 1e-8
HIDDEN, CLASSES, MINIBATCHES = 32, 10, 10
MOST_EPOCHS, ENOUGH = 150, 0.9
FIRST_SIZES, FIRST_BATCH = (64, 128, 10), 64


class Images(NamedTuple):
    """Images (samples, pixels) of bytes, and their labels."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


class Net(Protocol):
    """What a script has: a net that begins with `weights`."""

    def first_step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Take a step on x (samples, features) float32; return the loss before it."""

    def take(self, X: np.ndarray, y: np.ndarray) -> None:
        """Keep the bytes X (samples, pixels) to train on, and their scaling."""

    def epoch(self, order: np.ndarray) -> int:
        """Train on the minibatches `order` (steps, rows); return how many were right."""

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the part of the bytes X that is right, with the running statistics."""

    def save(self, path: str) -> None:
        """Write parameters and running statistics."""


def main(make_net: Callable[[tuple[int, ...]], Net]) -> None:
    """Run ``SCRIPT first-step`` or ``SCRIPT fashion-mnist FOLDER OUT``, and print JSON."""
    if sys.argv[1] == "first-step":
        found = {"loss": make_net(FIRST_SIZES).first_step(*first_batch())}
    else:
        folder, out = sys.argv[2:]
        found = train(make_net, load(folder), out)
    print(json.dumps(found))


def train(make_net: Callable[[tuple[int, ...]], Net], images: Images, out: str) -> dict[str, float]:
    """Train until the accuracy is enough; test and save."""
    n, pixels = images.X_train.shape
    net = make_net((pixels, HIDDEN, CLASSES))
    net.take(images.X_train, images.y_train)
    for epoch in range(MOST_EPOCHS):
        accuracy = net.epoch(order(epoch, n)) / n
        if accuracy > ENOUGH:
            break
    test_accuracy = net.accuracy(images.X_test, images.y_test)
    net.save(out)
    steps = (epoch + 1) * MINIBATCHES
    return {"steps": steps, "accuracy": accuracy, "test_accuracy": test_accuracy}


def weights(sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Return the first weights (out, in) of every layer, float32."""
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


def load(folder: str) -> Images:
    """Read the four files, gzipped or not."""
    return Images(
        _read(folder, "train-images-idx3-ubyte", 3),
        _read(folder, "train-labels-idx1-ubyte", 1).astype(np.int64),
        _read(folder, "t10k-images-idx3-ubyte", 3),
        _read(folder, "t10k-labels-idx1-ubyte", 1).astype(np.int64),
    )


def _read(folder: str, name: str, dimensions: int) -> np.ndarray:
    import gzip

    packed = pathlib.Path(folder, f"{name}.gz")
    if packed.is_file():
        data = gzip.decompress(packed.read_bytes())
    else:
        data = pathlib.Path(folder, name).read_bytes()
    shape = np.frombuffer(data, ">i4", dimensions, offset=4)
    array = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    return array.reshape(shape[0], -1) if dimensions > 1 else array


def min_max(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return center and scale (pixels,) float32 that take every pixel of X from 0 to 1."""
    low, high = X.min(axis=0), X.max(axis=0)
    distance = np.maximum(high - low, 1)
    return low.astype(np.float32), 1 / distance.astype(np.float32)


def save_layers(path: str, layers: Iterable[Iterable[Any]]) -> None:
    """Write the five arrays of each layer to an NPZ file."""
    names = ("weight", "gamma", "beta", "running_mean", "running_var")
    arrays: dict[str, Any] = {
        f"layers.{index}.{name}": array
        for index, layer in enumerate(layers)
        for name, array in zip(names, layer, strict=True)
    }
    np.savez(path, **arrays)
