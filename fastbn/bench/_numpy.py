"""NumPy's contestants: the step as one would write it by hand."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from fastbn.bench import _step_work as steps
from fastbn.bench._step_work import Stepper, StepWork


class NumpyStepper(Stepper):
    """Sample-major float32 arrays, in place where that is easy."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(work)
        self.threads = threads
        self.x, self.y = work.data()
        self.order = work.order()
        one, zero = np.float32(1), np.float32(0)
        self.params = [[w, np.full(len(w), one), np.full(len(w), zero)] for w in work.weights()]
        self.m = [[np.zeros_like(p) for p in layer] for layer in self.params]
        self.v = [[np.zeros_like(p) for p in layer] for layer in self.params]
        self.running = [
            [np.zeros(len(w), np.float32), np.ones(len(w), np.float32)] for w in work.weights()
        ]
        self.t = 0

    def run(self, steps_: int) -> np.ndarray:
        with threadpool_limits(self.threads, "blas"):
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
                self._adam(
                    self.params[index][place], grad, self.m[index][place], self.v[index][place]
                )
        return loss

    def _adam(self, p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray) -> None:
        m += np.float32(1 - steps.BETA1) * (g - m)
        v *= np.float32(steps.BETA2)
        g *= g
        g *= np.float32(1 - steps.BETA2)
        v += g
        root = np.sqrt(v)
        root *= np.float32(1 / np.sqrt(1 - steps.BETA2**self.t))
        root += np.float32(steps.ADAM_EPS)
        np.divide(m, root, out=root)
        root *= np.float32(steps.LR / (1 - steps.BETA1**self.t))
        p -= root
