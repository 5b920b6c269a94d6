"""JAX's contestants."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fastbn.bench import _step_work as steps
from fastbn.bench._kernel_work import AdamWork, BatchNormWork, Runner, ScaleWork, adam_results
from fastbn.bench._step_work import Stepper, StepWork

jax.config.update("jax_platforms", "cpu")  # also where JAX has found a GPU


def loss_sample_major(params: list[Any], x: Any, y: Any) -> tuple[Any, list[Any]]:
    """Cross-entropy of the net, and the statistics of every layer's batch."""
    statistics = []
    for index, (weight, gamma, beta) in enumerate(params):
        z = x @ weight.T
        mean = z.mean(axis=0)
        var = jnp.square(z - mean).mean(axis=0)
        statistics.append((mean, var))
        x = (z - mean) * jax.lax.rsqrt(var + steps.EPS) * gamma + beta
        if index < len(params) - 1:
            x = jnp.where(x > 0, x, steps.SLOPE * x)
    log_p = jax.nn.log_softmax(x)
    return -jnp.take_along_axis(log_p, y[:, None], axis=1).mean(), statistics


def loss_feature_major(params: list[Any], x: Any, y: Any) -> tuple[Any, list[Any]]:
    """The same on (features, samples)."""
    statistics = []
    a = x.T
    for index, (weight, gamma, beta) in enumerate(params):
        z = weight @ a
        mean = z.mean(axis=1)
        var = jnp.square(z - mean[:, None]).mean(axis=1)
        statistics.append((mean, var))
        scale = jax.lax.rsqrt(var + steps.EPS) * gamma
        a = (z - mean[:, None]) * scale[:, None] + beta[:, None]
        if index < len(params) - 1:
            a = jnp.where(a > 0, a, steps.SLOPE * a)
    log_p = jax.nn.log_softmax(a, axis=0)
    return -jnp.take_along_axis(log_p, y[None, :], axis=0).mean(), statistics


def step(loss_of: Any, state: Any, rows: Any, data_x: Any, data_y: Any) -> tuple[Any, Any]:
    """One step of Adam, and of the running statistics."""
    params, m, v, running, t = state
    t = t + 1
    (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(
        params, data_x[rows], data_y[rows]
    )
    m = jax.tree.map(lambda m, g: steps.BETA1 * m + (1 - steps.BETA1) * g, m, grads)
    v = jax.tree.map(lambda v, g: steps.BETA2 * v + (1 - steps.BETA2) * g * g, v, grads)
    rate = steps.LR / (1 - steps.BETA1**t)
    root = jax.lax.rsqrt(1 - steps.BETA2**t)
    params = jax.tree.map(
        lambda p, m, v: p - rate * m / (jnp.sqrt(v) * root + steps.ADAM_EPS), params, m, v
    )
    n = rows.size
    running = [
        (rm + steps.MOMENTUM * (mean - rm), rv + steps.MOMENTUM * (var * n / (n - 1) - rv))
        for (rm, rv), (mean, var) in zip(running, statistics, strict=True)
    ]
    return (params, m, v, running, t), loss


# Epochs of a scan where many are asked for: one begins with a call from Python.
LONG = 32


class JaxStepper(Stepper):
    """Jitted per step, or scanned over an epoch, or many; state is donated."""

    def __init__(self, work: StepWork, scan: bool, feature_major: bool) -> None:
        super().__init__(work)
        self.scan = scan
        one = functools.partial(step, loss_feature_major if feature_major else loss_sample_major)

        def many(state: Any, order: Any, data_x: Any, data_y: Any) -> tuple[Any, Any]:
            return jax.lax.scan(lambda s, rows: one(s, rows, data_x, data_y), state, order)

        x, y = work.data()
        self.x, self.y = jnp.asarray(x), jnp.asarray(y)
        self.orders = [jnp.asarray(rows) for rows in work.order()]
        self.order = jnp.asarray(work.order())
        self.long_order = jnp.tile(self.order, (LONG, 1))
        params = [(jnp.asarray(w), jnp.ones(len(w)), jnp.zeros(len(w))) for w in work.weights()]
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        running = [(jnp.zeros(len(w)), jnp.ones(len(w))) for w in work.weights()]
        self.state = (params, zeros(params), zeros(params), running, jnp.zeros(()))
        self.step = jax.jit(one, donate_argnums=0)
        self.many = jax.jit(many, donate_argnums=0)

    def run(self, steps_: int) -> np.ndarray:
        losses = []
        if not self.scan:
            for batch in self.batches(steps_):
                self.state, loss = self.step(self.state, self.orders[batch], self.x, self.y)
                losses.append(loss)
            return np.array([float(loss) for loss in losses])
        # one epoch or LONG: a scan of another length would be compiled anew
        done = 0
        while done < steps_:
            order = self.long_order if steps_ - done >= len(self.long_order) else self.order
            self.state, loss = self.many(self.state, order, self.x, self.y)
            losses.append(loss)
            done += len(order)
        return np.concatenate([np.asarray(part) for part in losses])


def batch_norm(x: Any, gamma: Any, beta: Any) -> Any:
    """Batch norm and LeakyReLU."""
    mean = x.mean(axis=0)
    var = jnp.square(x - mean).mean(axis=0)
    y = (x - mean) * jax.lax.rsqrt(var + steps.EPS) * gamma + beta
    return jnp.where(y > 0, y, steps.SLOPE * y)


@jax.jit
def batch_norm_and_gradients(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
    """y, dx, dgamma, dbeta."""
    y, backward = jax.vjp(batch_norm, x, gamma, beta)
    return y, *backward(dy)


class JaxRunner(Runner):
    """Something that a jitted function does."""

    last: Any

    def run(self, times: int) -> None:
        super().run(times)
        jax.block_until_ready(self.last)

    def results(self) -> list[np.ndarray]:
        return [np.array(part) for part in self.last]


class BatchNorm(JaxRunner):
    """Jitted, the gradients with it."""

    def __init__(self, work: BatchNormWork) -> None:
        self.x, self.dy, self.gamma, self.beta = map(jnp.asarray, work.data())

    def once(self) -> None:
        self.last = batch_norm_and_gradients(self.x, self.gamma, self.beta, self.dy)


class Adam(JaxRunner):
    """optax.adam on a net's tensors, jitted, its state donated."""

    def __init__(self, work: AdamWork) -> None:
        self.work = work
        params, grads = work.data()
        adam = optax.adam(steps.LR, b1=steps.BETA1, b2=steps.BETA2, eps=steps.ADAM_EPS)
        self.grads = list(map(jnp.asarray, work.split(grads)))
        self.params = list(map(jnp.asarray, work.split(params)))
        self.state = adam.init(self.params)

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = adam.update(grads, state)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))

    def once(self) -> None:
        self.params, self.state = self.update(self.params, self.state, self.grads)
        self.last = self.params

    def results(self) -> list[np.ndarray]:
        moments: Any = self.state[0]
        return adam_results(
            self.work,
            *(
                np.concatenate([np.array(part).ravel() for part in parts])
                for parts in (self.params, moments.mu, moments.nu)
            ),
        )


@jax.jit
def scaled(x: Any) -> Any:
    """Scale to mean 0 and standard deviation 1 per feature."""
    mean = x.mean(axis=0)
    return ((x - mean) / jnp.sqrt(jnp.square(x - mean).mean(axis=0)),)


class Scale(JaxRunner):
    """Jitted."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = jnp.asarray(work.data())

    def once(self) -> None:
        self.last = scaled(self.x)
