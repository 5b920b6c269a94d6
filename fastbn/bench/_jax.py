"""JAX's contestants."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastbn.bench import _step_work as steps
from fastbn.bench._step_work import Stepper, StepWork


def loss_of(params: list[Any], x: Any, y: Any) -> tuple[Any, list[Any]]:
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


def step(state: Any, rows: Any, data_x: Any, data_y: Any) -> tuple[Any, Any]:
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


class JaxStepper(Stepper):
    """Jitted per step, or scanned over the epoch; state is donated."""

    def __init__(self, work: StepWork, scan: bool) -> None:
        super().__init__(work)
        self.scan = scan
        x, y = work.data()
        self.x, self.y = jnp.asarray(x), jnp.asarray(y)
        self.order = jnp.asarray(work.order())
        params = [(jnp.asarray(w), jnp.ones(len(w)), jnp.zeros(len(w))) for w in work.weights()]
        zeros = functools.partial(jax.tree.map, jnp.zeros_like)
        running = [(jnp.zeros(len(w)), jnp.ones(len(w))) for w in work.weights()]
        self.state = (params, zeros(params), zeros(params), running, jnp.zeros(()))
        self.step = jax.jit(step, donate_argnums=0)
        self.many = jax.jit(self._many, donate_argnums=0)

    @staticmethod
    def _many(state: Any, order: Any, data_x: Any, data_y: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda s, rows: step(s, rows, data_x, data_y), state, order)

    def run(self, steps_: int) -> np.ndarray:
        losses = []
        if not self.scan:
            for batch in self.batches(steps_):
                self.state, loss = self.step(self.state, self.order[batch], self.x, self.y)
                losses.append(loss)
            return np.array([float(loss) for loss in losses])
        # whole epochs: a scan of another length would be compiled anew
        done = 0
        while done < steps_:
            self.state, loss = self.many(self.state, self.order, self.x, self.y)
            losses.append(loss)
            done += steps.BATCHES
        return np.concatenate([np.asarray(part) for part in losses])
