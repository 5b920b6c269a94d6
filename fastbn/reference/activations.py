"""Activations, with and without a bias, and the dropout mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.reference._arrays import Array, f64


def leaky_relu(y: Any, slope: float) -> Array:
    """Return y if y > 0, else slope * y. A slope of 0 is ReLU, 1 is the identity."""
    y = f64(y)
    return np.where(y > 0, y, slope * y)


def leaky_relu_gradient(y: Any, slope: float) -> Array:
    """Return 1 if y > 0, else slope."""
    return np.where(f64(y) > 0, 1.0, slope)


def bias_activation(z: Any, bias: Any, slope: float) -> Array:
    """Return act(z + bias) for feature-major z (C, N)."""
    return leaky_relu(f64(z) + f64(bias)[:, None], slope)


def bias_activation_backward(da: Any, z: Any, bias: Any, slope: float) -> tuple[Array, Array]:
    """Return dz = da * act'(z + bias) and dbias, its sum over the samples."""
    dz = f64(da) * leaky_relu_gradient(f64(z) + f64(bias)[:, None], slope)
    return dz, dz.sum(axis=1)


def sigmoid(logits: Any) -> Array:
    """Return 1 / (1 + exp(-z)), without overflow."""
    z = f64(logits)
    e = np.exp(-np.abs(z))
    return np.where(z > 0, 1.0, e) / (1 + e)


def sigmoid_gradient(y: Any) -> Array:
    """Return sigmoid(y) * (1 - sigmoid(y)), accurate also where it is small."""
    e = np.exp(-np.abs(f64(y)))
    return e / (1 + e) ** 2


# Activations other than LeakyReLU, and their derivatives: tanh' = 1 - tanh^2 = 4 sigmoid'(2y).
ELEMENTWISE: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (np.tanh, lambda y: 4 * sigmoid_gradient(2 * y)),
    "logistic": (sigmoid, sigmoid_gradient),
}


def elementwise(y: Any, name: str) -> Array:
    """Return act(y) for the activation with this name."""
    return ELEMENTWISE[name][0](f64(y))


def elementwise_gradient(y: Any, name: str) -> Array:
    """Return act'(y) for the activation with this name."""
    return ELEMENTWISE[name][1](f64(y))


def _mix32(h: int) -> int:
    """Scramble 32 bits: the finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return h ^ (h >> 16)


def dropout_mask(shape: tuple[int, ...], rate: float, seed: int, step: int, layer: int) -> Array:
    """Return 0 for dropped values and 1 / (1 - rate) for others, by a hash of key and position."""
    key = _mix32((_mix32((_mix32(seed) + step) & 0xFFFFFFFF) + layer) & 0xFFFFFFFF)
    hashes = np.array([_mix32(position ^ key) for position in range(int(np.prod(shape)))])
    return np.where(hashes >= int(rate * 2**32), 1.0 / (1.0 - rate), 0.0).reshape(shape)
