"""The network in NumPy: float32, feature-major, in place where that is easy."""

from __future__ import annotations

from typing import Any

import numpy as np


class Layer:
    """Weight, gamma and beta, as views of flat buffers, and the values that backward needs."""

    def __init__(
        self, params: np.ndarray, grads: np.ndarray, weight: np.ndarray, constants: Any
    ) -> None:
        n_out, cut = len(weight), weight.size
        self.weight, self.dweight = (flat[:cut].reshape(weight.shape) for flat in (params, grads))
        self.gamma, self.dgamma = (flat[cut : cut + n_out] for flat in (params, grads))
        self.beta, self.dbeta = (flat[cut + n_out :] for flat in (params, grads))
        self.weight[...], self.gamma[...] = weight, 1
        self.running_mean = np.zeros(n_out, np.float32)
        self.running_var = np.ones(n_out, np.float32)
        self.eps, self.momentum = np.float32(constants.EPS), np.float32(constants.MOMENTUM)

    def forward(self, a: np.ndarray) -> np.ndarray:
        """Return y (outputs, samples) for a (inputs, samples)."""
        n = a.shape[1]
        xhat = self.weight @ a
        mean = xhat.mean(axis=1)
        xhat -= mean[:, None]
        var = np.einsum("ij,ij->i", xhat, xhat) / np.float32(n)
        rstd = 1 / np.sqrt(var + self.eps)
        xhat *= rstd[:, None]
        self.a, self.xhat, self.rstd = a, xhat, rstd
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (var * np.float32(n / (n - 1)) - self.running_var)
        y = xhat * self.gamma[:, None]
        y += self.beta[:, None]
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Set the gradients, and overwrite dy with the gradient of the product."""
        n = np.float32(dy.shape[1])
        np.sum(dy, axis=1, out=self.dbeta)
        np.einsum("ij,ij->i", dy, self.xhat, out=self.dgamma)
        self.xhat *= (self.dgamma / n)[:, None]
        dy -= (self.dbeta / n)[:, None]
        dy -= self.xhat
        dy *= (self.gamma * self.rstd)[:, None]
        np.matmul(dy, self.a.T, out=self.dweight)
        return dy

    def infer(self, a: np.ndarray) -> np.ndarray:
        """Return y with the running statistics."""
        scale = self.gamma / np.sqrt(self.running_var + self.eps)
        return (self.weight * scale[:, None]) @ a + (self.beta - self.running_mean * scale)[:, None]


class NumpyNet:
    """Layers of batch norm, LeakyReLU between them, softmax and Adam."""

    def __init__(self, weights: list[np.ndarray], constants: Any) -> None:
        self.constants, self.slope = constants, np.float32(constants.SLOPE)
        ends = np.cumsum([weight.size + 2 * len(weight) for weight in weights])
        self.params, self.grads, self.m, self.v, self.scratch = np.zeros((5, ends[-1]), np.float32)
        self.layers = [
            Layer(self.params[start:end], self.grads[start:end], weight, constants)
            for start, end, weight in zip([0, *ends[:-1]], ends, weights, strict=True)
        ]
        self.steps = 0

    def step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
        """Take a step on x (samples, features); return its loss and hits."""
        pre: list[np.ndarray] = []  # inputs of the activations
        p = self.layers[0].forward(x.T)
        for layer in self.layers[1:]:
            pre.append(p)
            p = layer.forward(np.maximum(p, self.slope * p))
        hits = int(np.count_nonzero(p.argmax(axis=0) == y))
        p -= p.max(axis=0)
        at_labels = y, np.arange(y.size)
        chosen = p[at_labels]
        np.exp(p, out=p)
        total = p.sum(axis=0)
        loss = float((np.log(total) - chosen).mean())
        p /= total
        p[at_labels] -= 1
        p /= np.float32(y.size)
        for layer in self.layers[:0:-1]:
            p = layer.weight.T @ layer.backward(p)
            np.multiply(p, self.slope, out=p, where=pre.pop() < 0)
        self.layers[0].backward(p)
        self.steps += 1
        adam(self.params, self.grads, self.m, self.v, self.steps, self.scratch, self.constants)
        return loss, hits

    def take(self, X: np.ndarray, y: np.ndarray, center: np.ndarray, scale: np.ndarray) -> None:
        """Convert the images once."""
        self.center, self.scale = center, scale
        self.X, self.y = self.scaled(X), y

    def scaled(self, X: np.ndarray) -> np.ndarray:
        """Return X (samples, pixels), scaled to float32."""
        x = np.subtract(X, self.center)
        x *= self.scale
        return x

    def epoch(self, order: np.ndarray) -> int:
        """Train on the minibatches."""
        x = np.empty((order.shape[1], self.X.shape[1]), np.float32)
        hits = 0
        for rows in order:
            np.take(self.X, rows, axis=0, out=x, mode="clip")
            hits += self.step(x, self.y[rows])[1]
        return hits

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the accuracy."""
        a = self.layers[0].infer(self.scaled(X).T)
        for layer in self.layers[1:]:
            a = layer.infer(np.maximum(a, self.slope * a))
        return float((a.argmax(axis=0) == y).mean())

    def save(self, path: str) -> None:
        """Write an NPZ file."""
        names = ("weight", "gamma", "beta", "running_mean", "running_var")
        arrays: dict[str, Any] = {
            f"layers.{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self.layers)
            for name in names
        }
        np.savez(path, **arrays)


def adam(
    p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, step: int, scratch: np.ndarray,
    constants: Any,
) -> None:  # fmt: skip
    """Take a step of Adam, in place; scratch is overwritten."""
    np.subtract(g, m, out=scratch)
    scratch *= np.float32(1 - constants.BETA1)
    m += scratch
    np.multiply(g, g, out=scratch)
    scratch *= np.float32(1 - constants.BETA2)
    v *= np.float32(constants.BETA2)
    v += scratch
    np.sqrt(v, out=scratch)
    scratch *= np.float32(1 / np.sqrt(1 - constants.BETA2**step))
    scratch += np.float32(constants.ADAM_EPS)
    np.divide(m, scratch, out=scratch)
    scratch *= np.float32(constants.LR / (1 - constants.BETA1**step))
    p -= scratch


if __name__ == "__main__":
    import _work  # type: ignore[import-not-found]

    _work.main(NumpyNet)
