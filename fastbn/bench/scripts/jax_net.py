"""JAX's net: a step, or the scan over an epoch, is one jitted function, whose state is donated."""

from __future__ import annotations

from typing import Any

import _work as work  # type: ignore[import-not-found]
import jax
import jax.numpy as jnp
import numpy as np


def batch_norm(z: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
    """Normalize z (features, samples), scale and shift it."""
    scale = jax.lax.rsqrt(var + work.EPS) * gamma
    return (z - mean[:, None]) * scale[:, None] + beta[:, None]


def leaky_relu(y: Any) -> Any:
    """Return y, or what is left of it where it is negative."""
    return jnp.where(y > 0, y, work.SLOPE * y)


def loss_of(params: list[Any], x: Any, y: Any) -> tuple[Any, tuple[Any, Any]]:
    """Return the cross-entropy; with it the hits, and the statistics of every layer's batch."""
    statistics: list[tuple[Any, Any]] = []
    a = x.T
    for weight, gamma, beta in params:
        z = weight @ (leaky_relu(a) if statistics else a)
        mean = z.mean(axis=1)
        var = jnp.square(z - mean[:, None]).mean(axis=1)
        statistics.append((mean, var))
        a = batch_norm(z, mean, var, gamma, beta)
    log_p = jax.nn.log_softmax(a, axis=0)
    loss = -jnp.take_along_axis(log_p, y[None, :], axis=0).mean()
    return loss, ((a.argmax(axis=0) == y).sum(), statistics)


def step(state: Any, x: Any, y: Any) -> tuple[Any, tuple[Any, Any]]:
    """Take a step of Adam and of the running statistics; return state, loss and hits."""
    params, m, v, running, t = state
    t = t + 1
    (loss, (hits, statistics)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
    m = jax.tree.map(lambda m, g: work.BETA1 * m + (1 - work.BETA1) * g, m, grads)
    v = jax.tree.map(lambda v, g: work.BETA2 * v + (1 - work.BETA2) * g * g, v, grads)
    rate = work.LR / (1 - work.BETA1**t)
    root = jax.lax.rsqrt(1 - work.BETA2**t)
    params = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v) * root + work.ADAM_EPS), params, m, v
    )
    n = len(y)
    running = [
        (rm + work.MOMENTUM * (mean - rm), rv + work.MOMENTUM * (var * n / (n - 1) - rv))
        for (rm, rv), (mean, var) in zip(running, statistics, strict=True)
    ]
    return (params, m, v, running, t), (loss, hits)


def scaled(X: Any, center: Any, scale: Any) -> Any:
    """Return bytes X (samples, pixels), scaled to float32."""
    return (X.astype(jnp.float32) - center) * scale


def epoch(state: Any, order: Any, X: Any, y: Any, *scaling: Any) -> tuple[Any, Any]:
    """Train on the minibatches of bytes, each scaled when it is gathered; return state and hits."""

    def one(state: Any, rows: Any) -> tuple[Any, Any]:
        return step(state, scaled(X[rows], *scaling), y[rows])

    state, (_, hits) = jax.lax.scan(one, state, order)
    return state, hits.sum()


def right(params: list[Any], running: list[Any], X: Any, y: Any, *scaling: Any) -> Any:
    """Return the part of bytes X that is right, with the running statistics."""
    a = scaled(X, *scaling).T
    for index, ((weight, gamma, beta), (mean, var)) in enumerate(zip(params, running, strict=True)):
        a = batch_norm(weight @ (leaky_relu(a) if index else a), mean, var, gamma, beta)
    return (a.argmax(axis=0) == y).mean()


class JaxNet:
    """Weight, gamma and beta of every layer, moments and running statistics."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        params = [
            (weight, np.ones(len(weight), np.float32), np.zeros(len(weight), np.float32))
            for weight in work.weights(sizes)
        ]
        m, v = (jax.tree.map(np.zeros_like, params) for _ in range(2))
        running = [(np.zeros_like(beta), np.ones_like(beta)) for _, _, beta in params]
        self.state: Any = (params, m, v, running, np.float32(0))

    def first_step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Take a step."""
        self.state, (loss, _) = jax.jit(step, donate_argnums=0)(self.state, x, y)
        jax.block_until_ready(self.state)
        return float(loss)

    def take(self, X: np.ndarray, y: np.ndarray) -> None:
        """Put bytes and labels on the device."""
        self.scaling = work.min_max(X)
        self.X, self.y = jnp.asarray(X), jnp.asarray(y)
        self.run_epoch = jax.jit(epoch, donate_argnums=0)

    def epoch(self, order: np.ndarray) -> int:
        """Train on the minibatches."""
        self.state, hits = self.run_epoch(self.state, order, self.X, self.y, *self.scaling)
        return int(hits)

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Test."""
        params, _, _, running, _ = self.state
        return float(jax.jit(right)(params, running, X, y, *self.scaling))

    def save(self, path: str) -> None:
        """Write an NPZ file."""
        params, _, _, running, _ = self.state
        work.save_layers(path, [(*one, *two) for one, two in zip(params, running, strict=True)])


if __name__ == "__main__":
    work.main(JaxNet)
