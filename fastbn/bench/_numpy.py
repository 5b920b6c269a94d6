"""NumPy's contestants: the step as one would write it by hand."""

from __future__ import annotations

import numpy as np
from threadpoolctl import ThreadpoolController

from fastbn.bench import _step_work as steps
from fastbn.bench._kernel_work import AdamWork, BatchNormWork, FlatAdam, Runner, ScaleWork
from fastbn.bench._step_work import Stepper, StepWork


class NumpyStepper(Stepper):
    """Sample-major float32 arrays, in place where that is easy."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(work)
        self.threads = threads
        self.pools = ThreadpoolController()  # looks for them at all libraries: not within a sample
        self.x, self.y = work.data()
        self.order = work.order()
        one, zero = np.float32(1), np.float32(0)
        self.params = [[w, np.full(len(w), one), np.full(len(w), zero)] for w in work.weights()]
        self.m = [[np.zeros_like(p) for p in layer] for layer in self.params]
        self.v = [[np.zeros_like(p) for p in layer] for layer in self.params]
        self.scratch = [[np.empty_like(p) for p in layer] for layer in self.params]
        self.running = [
            [np.zeros(len(w), np.float32), np.ones(len(w), np.float32)] for w in work.weights()
        ]
        self.t = 0

    def run(self, steps_: int) -> np.ndarray:
        with self.pools.limit(limits=self.threads, user_api="blas"):
            return np.array([self._step(self.order[batch]) for batch in self.batches(steps_)])

    def _step(self, rows: np.ndarray) -> float:
        a, labels = self.x[rows], self.y[rows]
        n = rows.size
        saved = []
        for index, (weight, gamma, beta) in enumerate(self.params):
            z = a @ weight.T
            mean = z.mean(axis=0)
            z -= mean
            var = np.square(z).mean(axis=0)
            rstd = 1 / np.sqrt(var + np.float32(steps.EPS))
            z *= rstd  # xhat
            running_mean, running_var = self.running[index]
            running_mean += np.float32(steps.MOMENTUM) * (mean - running_mean)
            running_var += np.float32(steps.MOMENTUM) * (
                var * np.float32(n / (n - 1)) - running_var
            )
            saved.append((a, z, rstd))
            a = z * gamma + beta
            if index < len(self.params) - 1:
                a = np.maximum(a, np.float32(steps.SLOPE) * a)
        a -= a.max(axis=1, keepdims=True)
        p = np.exp(a)
        total = p.sum(axis=1, keepdims=True)
        every = np.arange(n)
        loss = float((np.log(total[:, 0]) - a[every, labels]).mean())
        p /= total
        p[every, labels] -= 1
        da = p / np.float32(n)
        self.t += 1
        for index in range(len(self.params) - 1, -1, -1):
            weight, gamma, beta = self.params[index]
            a, xhat, rstd = saved[index]
            if index < len(self.params) - 1:
                da *= np.where(xhat * gamma + beta > 0, np.float32(1), np.float32(steps.SLOPE))
            dbeta = da.sum(axis=0)
            dgamma = np.einsum("ij,ij->j", da, xhat)
            dz = (gamma * rstd) * (da - dbeta / np.float32(n) - xhat * (dgamma / np.float32(n)))
            dweight = dz.T @ a
            if index > 0:
                da = dz @ weight
            for place, grad in enumerate((dweight, dgamma, dbeta)):
                m, v = self.m[index][place], self.v[index][place]
                adam_step(self.params[index][place], grad, m, v, self.t, self.scratch[index][place])
        return loss


def adam_step(
    p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, step: int, root: np.ndarray
) -> None:
    """One step of Adam, in place; root is overwritten."""
    np.subtract(g, m, out=root)
    root *= np.float32(1 - steps.BETA1)
    m += root
    np.multiply(g, g, out=root)
    root *= np.float32(1 - steps.BETA2)
    v *= np.float32(steps.BETA2)
    v += root
    np.sqrt(v, out=root)
    root *= np.float32(1 / np.sqrt(1 - steps.BETA2**step))
    root += np.float32(steps.ADAM_EPS)
    np.divide(m, root, out=root)
    root *= np.float32(steps.LR / (1 - steps.BETA1**step))
    p -= root


class BatchNorm(Runner):
    """Sample-major, in place where that is easy."""

    def __init__(self, work: BatchNormWork) -> None:
        self.x, self.dy, self.gamma, self.beta = work.data()
        self.last: list[np.ndarray] = []

    def once(self) -> None:
        n = np.float32(len(self.x))
        slope, one = np.float32(steps.SLOPE), np.float32(1)
        xhat = self.x - self.x.mean(axis=0)
        rstd = 1 / np.sqrt(np.einsum("ij,ij->j", xhat, xhat) / n + np.float32(steps.EPS))
        xhat *= rstd
        y = xhat * self.gamma
        y += self.beta
        slopes = np.where(y > 0, one, slope)
        y *= slopes
        g = np.multiply(self.dy, slopes, out=slopes)
        dbeta, dgamma = g.sum(axis=0), np.einsum("ij,ij->j", g, xhat)
        xhat *= dgamma / n
        g -= dbeta / n
        g -= xhat
        g *= self.gamma * rstd
        self.last = [y, g, dgamma, dbeta]

    def results(self) -> list[np.ndarray]:
        return self.last


class Adam(FlatAdam):
    """In place, on the flat buffers of a net's tensors."""

    def __init__(self, work: AdamWork) -> None:
        super().__init__(work)
        self.root = np.empty_like(self.params)

    def once(self) -> None:
        self.step += 1
        adam_step(self.params, self.grads, self.m, self.v, self.step, self.root)


class Scale(Runner):
    """Mean and standard deviation per feature, and the scaled array."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = self.last = work.data()

    def once(self) -> None:
        y = self.x - self.x.mean(axis=0)
        y /= np.sqrt(np.einsum("ij,ij->j", y, y) / np.float32(len(y)))
        self.last = y

    def results(self) -> list[np.ndarray]:
        return [self.last]
