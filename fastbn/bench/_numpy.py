"""NumPy as a contestant: code that a user would write by hand."""

from __future__ import annotations

import numpy as np

from fastbn.bench import _work as constants
from fastbn.bench._work import (
    AdamWork,
    BatchNormWork,
    BlasRunner,
    FlatAdam,
    Runner,
    ScaleWork,
    Stepper,
    StepWork,
)
from fastbn.bench.scripts.numpy_net import NumpyNet, adam


class NumpyStepper(BlasRunner, Stepper):
    """Training steps on feature-major float32 arrays, in place where that is easy."""

    def __init__(self, work: StepWork, threads: int) -> None:
        super().__init__(threads)
        self.x, self.y = work.data()
        self.order = work.order()
        self.net = NumpyNet(work.weights(), constants)

    def train_epoch(self) -> list[float]:
        return [self.net.step(self.x[rows], self.y[rows])[0] for rows in self.order]


class BatchNorm(Runner):
    """Batch norm, sample-major, in place where that is easy."""

    def __init__(self, work: BatchNormWork) -> None:
        self.x, self.dy, self.gamma, self.beta = work.data()

    def once(self) -> None:
        n = np.float32(len(self.x))
        slope, one = np.float32(constants.SLOPE), np.float32(1)
        xhat = self.x - self.x.mean(axis=0)
        rstd = 1 / np.sqrt(np.einsum("ij,ij->j", xhat, xhat) / n + np.float32(constants.EPS))
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


class Adam(FlatAdam):
    """Adam in place, on the flat buffers of a network's tensors."""

    def __init__(self, work: AdamWork) -> None:
        super().__init__(work)
        self.scratch = np.empty_like(self.params)

    def once(self) -> None:
        self.step += 1
        adam(self.params, self.grads, self.m, self.v, self.step, self.scratch, constants)


class Scale(Runner):
    """Scaling by mean and standard deviation of each feature."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = work.data()

    def once(self) -> None:
        y = self.x - self.x.mean(axis=0)
        y /= np.sqrt(np.einsum("ij,ij->j", y, y) / np.float32(len(y)))
        self.last = [y]
