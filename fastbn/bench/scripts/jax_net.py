"""The network in JAX: a step, or a scan over an epoch, is one jitted function.

The functions donate their state.

`axis` is the axis of the samples: 0 in sample-major networks, 1 in feature-major ones.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

State = Any  # parameters, both moments, running statistics, steps


def normalize(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, axis: int, eps: float) -> Any:
    """Return batch norm of x with these statistics."""
    scale = jax.lax.rsqrt(var + eps) * gamma
    mean, scale, beta = (jnp.expand_dims(part, axis) for part in (mean, scale, beta))
    return (x - mean) * scale + beta


def batch_norm(x: Any, gamma: Any, beta: Any, axis: int, eps: float) -> Any:
    """Return batch norm of x, and the batch's mean and variance."""
    mean = x.mean(axis=axis)
    var = jnp.square(x - jnp.expand_dims(mean, axis)).mean(axis=axis)
    return normalize(x, mean, var, gamma, beta, axis, eps), mean, var


def leaky_relu(y: Any, slope: float) -> Any:
    """Return LeakyReLU of y."""
    return jnp.where(y > 0, y, slope * y)


def product(weight: Any, a: Any, axis: int) -> Any:
    """Return the matrix product of a layer."""
    return weight @ a if axis == 1 else a @ weight.T


def loss_of(params: list[Any], x: Any, y: Any, axis: int, constants: Any) -> tuple[Any, Any]:
    """Return the cross-entropy, and as a pair the hits and the batch statistics of each layer."""
    statistics: list[tuple[Any, Any]] = []
    a = x.T if axis == 1 else x
    for weight, gamma, beta in params:
        z = product(weight, leaky_relu(a, constants.SLOPE) if statistics else a, axis)
        a, *both = batch_norm(z, gamma, beta, axis, constants.EPS)
        statistics.append(tuple(both))
    log_p = jax.nn.log_softmax(a, axis=1 - axis)
    loss = -jnp.take_along_axis(log_p, jnp.expand_dims(y, 1 - axis), axis=1 - axis).mean()
    return loss, ((a.argmax(axis=1 - axis) == y).sum(), statistics)


def step(state: State, x: Any, y: Any, axis: int, constants: Any) -> tuple[State, tuple[Any, Any]]:
    """Take a step of Adam, and update the running statistics; return state, loss and hits."""
    params, m, v, running, t = state
    t = t + 1
    (loss, (hits, statistics)), grads = jax.value_and_grad(loss_of, has_aux=True)(
        params, x, y, axis, constants
    )
    beta1, beta2 = constants.BETA1, constants.BETA2
    m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, grads)
    v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, grads)
    rate = constants.LR / (1 - beta1**t)
    root = jax.lax.rsqrt(1 - beta2**t)
    params = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v) * root + constants.ADAM_EPS), params, m, v
    )
    n, momentum = len(y), constants.MOMENTUM
    running = [
        (rm + momentum * (mean - rm), rv + momentum * (var * n / (n - 1) - rv))
        for (rm, rv), (mean, var) in zip(running, statistics, strict=True)
    ]
    return (params, m, v, running, t), (loss, hits)


def first_state(weights: list[np.ndarray]) -> State:
    """Return the state of a network with these weights."""
    params = [(w, np.ones(len(w), np.float32), np.zeros(len(w), np.float32)) for w in weights]
    m, v = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    running = [(np.zeros_like(beta), np.ones_like(beta)) for _, _, beta in params]
    return params, m, v, running, np.float32(0)


def scaled(X: Any, center: Any, scale: Any) -> Any:
    """Return X (samples, pixels) uint8, scaled to float32."""
    return (X.astype(jnp.float32) - center) * scale


class JaxNet:
    """A feature-major network; uint8 data are scaled when they are gathered."""

    def __init__(self, weights: list[np.ndarray], constants: Any) -> None:
        self.state, self.constants = first_state(weights), constants
        self._step = functools.partial(step, axis=1, constants=constants)

    def step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
        """Take a step on x (samples, features); return its loss and hits."""
        self.state, (loss, hits) = jax.jit(self._step, donate_argnums=0)(self.state, x, y)
        jax.block_until_ready(self.state)
        return float(loss), int(hits)

    def take(self, X: np.ndarray, y: np.ndarray, center: np.ndarray, scale: np.ndarray) -> None:
        """Put data and labels on the device."""

        def epoch(state: State, order: Any, X: Any, y: Any) -> tuple[State, Any]:
            def one(state: State, rows: Any) -> tuple[State, Any]:
                return self._step(state, scaled(X[rows], center, scale), y[rows])

            state, (_, hits) = jax.lax.scan(one, state, order)
            return state, hits.sum()

        self.scaling = center, scale
        self.X, self.y = jnp.asarray(X), jnp.asarray(y)
        self.run_epoch = jax.jit(epoch, donate_argnums=0)

    def epoch(self, order: np.ndarray) -> int:
        """Train on the minibatches."""
        self.state, hits = self.run_epoch(self.state, order, self.X, self.y)
        return int(hits)

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the accuracy."""

        def right(params: list[Any], running: list[Any]) -> Any:
            a = scaled(X, *self.scaling).T
            layers = zip(params, running, strict=True)
            for index, ((weight, gamma, beta), (mean, var)) in enumerate(layers):
                z = weight @ (leaky_relu(a, self.constants.SLOPE) if index else a)
                a = normalize(z, mean, var, gamma, beta, 1, self.constants.EPS)
            return (a.argmax(axis=0) == y).mean()

        params, _, _, running, _ = self.state
        return float(jax.jit(right)(params, running))

    def save(self, path: str) -> None:
        """Write an NPZ file."""
        params, _, _, running, _ = self.state
        names = ("weight", "gamma", "beta", "running_mean", "running_var")
        arrays: dict[str, Any] = {
            f"layers.{index}.{name}": array
            for index, (one, two) in enumerate(zip(params, running, strict=True))
            for name, array in zip(names, (*one, *two), strict=True)
        }
        np.savez(path, **arrays)


if __name__ == "__main__":
    import _work  # type: ignore[import-not-found]

    _work.main(JaxNet)
