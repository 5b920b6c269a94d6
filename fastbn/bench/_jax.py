"""JAX as a contestant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fastbn.bench import _work as constants
from fastbn.bench._work import AdamWork, BatchNormWork, Runner, ScaleWork, Stepper, StepWork
from fastbn.bench.scripts.jax_net import batch_norm, first_state, leaky_relu, step

jax.config.update("jax_platforms", "cpu")  # even if JAX finds a GPU

# Epochs in one scan: many, so that there are few calls from Python.
LONG = 32


class JaxStepper(Stepper):
    """Training with a jitted step, or with a scan over epochs; the state is donated."""

    def __init__(self, work: StepWork, scan: bool, axis: int) -> None:
        x, y = map(jnp.asarray, work.data())
        self.data = x, y

        def one(state: Any, rows: Any, x: Any, y: Any) -> tuple[Any, Any]:
            state, (loss, _) = step(state, x[rows], y[rows], axis, constants)
            return state, loss

        def many(state: Any, order: Any, x: Any, y: Any) -> tuple[Any, Any]:
            return jax.lax.scan(lambda state, rows: one(state, rows, x, y), state, order)

        self.state = first_state(work.weights())
        self.train = jax.jit(many if scan else one, donate_argnums=0)
        order = work.order()
        # the argument of each call, for one epoch and for LONG epochs
        self.epoch = [jnp.asarray(order)] if scan else [jnp.asarray(rows) for rows in order]
        self.long = [jnp.tile(self.epoch[0], (LONG, 1))] if scan else self.epoch * LONG

    def run(self, times: int) -> None:
        calls = self.long * (times // LONG) + self.epoch * (times % LONG)
        losses = []
        for rows in calls:
            self.state, loss = self.train(self.state, rows, *self.data)
            losses.append(loss)
        self.losses = np.concatenate([np.atleast_1d(loss) for loss in losses])


class JaxCaller(Stepper):
    """Training with a jitted step, called once a minibatch; the state is donated."""

    def __init__(self, work: StepWork, axis: int) -> None:
        x, y = work.data()
        self.minibatches = [(jnp.asarray(x[rows]), jnp.asarray(y[rows])) for rows in work.order()]

        def one(state: Any, x: Any, y: Any) -> tuple[Any, Any]:
            state, (loss, _) = step(state, x, y, axis, constants)
            return state, loss

        self.state = first_state(work.weights())
        self.train = jax.jit(one, donate_argnums=0)

    def train_epoch(self) -> Iterator[Any]:
        for x, y in self.minibatches:
            self.state, loss = self.train(self.state, x, y)
            yield loss


class JaxRunner(Runner):
    """A contestant that calls a jitted function."""

    last: Any

    def run(self, times: int) -> None:
        super().run(times)
        jax.block_until_ready(self.last)

    def results(self) -> list[np.ndarray]:
        return [np.array(part) for part in self.last]


@jax.jit
def batch_norm_and_gradients(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
    """Return y of batch norm with LeakyReLU, dx, dgamma, dbeta."""

    def forward(x: Any, gamma: Any, beta: Any) -> Any:
        return leaky_relu(batch_norm(x, gamma, beta, 0, constants.EPS)[0], constants.SLOPE)

    y, backward = jax.vjp(forward, x, gamma, beta)
    return y, *backward(dy)


class BatchNorm(JaxRunner):
    """Forward and backward pass in one jitted function."""

    def __init__(self, work: BatchNormWork) -> None:
        self.x, self.dy, self.gamma, self.beta = map(jnp.asarray, work.data())

    def once(self) -> None:
        self.last = batch_norm_and_gradients(self.x, self.gamma, self.beta, self.dy)


class Adam(JaxRunner):
    """optax.adam on a network's tensors, jitted; the state is donated."""

    def __init__(self, work: AdamWork) -> None:
        self.work = work
        params, grads = work.data()
        adam = optax.adam(
            constants.LR, b1=constants.BETA1, b2=constants.BETA2, eps=constants.ADAM_EPS
        )
        self.grads = list(map(jnp.asarray, work.split(grads)))
        self.last = list(map(jnp.asarray, work.split(params)))
        self.state = adam.init(self.last)

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = adam.update(grads, state)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))

    def once(self) -> None:
        self.last, self.state = self.update(self.last, self.state, self.grads)

    def results(self) -> list[np.ndarray]:
        moments: Any = self.state[0]
        state = (list(map(np.array, parts)) for parts in (self.last, moments.mu, moments.nu))
        return self.work.results(*state)


@jax.jit
def scaled(x: Any) -> Any:
    """Scale to mean 0 and standard deviation 1 per feature."""
    mean = x.mean(axis=0)
    return ((x - mean) / jnp.sqrt(jnp.square(x - mean).mean(axis=0)),)


class Scale(JaxRunner):
    """Scaling of inputs in a jitted function."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = jnp.asarray(work.data())

    def once(self) -> None:
        self.last = scaled(self.x)
