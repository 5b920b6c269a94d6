"""NumPy's net: float32, activations feature-major, in place where that is easy."""

from __future__ import annotations

import math

import _work as work  # type: ignore[import-not-found]
import numpy as np

EPS, SLOPE, ONE = np.float32(work.EPS), np.float32(work.SLOPE), np.float32(1)


class Layer:
    """Weight, gamma and beta, which are views of flat buffers, and what their gradients need."""

    def __init__(self, params: np.ndarray, grads: np.ndarray, weight: np.ndarray) -> None:
        n_out, cut = len(weight), weight.size
        self.weight, self.dweight = (flat[:cut].reshape(weight.shape) for flat in (params, grads))
        self.gamma, self.dgamma = (flat[cut : cut + n_out] for flat in (params, grads))
        self.beta, self.dbeta = (flat[cut + n_out :] for flat in (params, grads))
        self.weight[...], self.gamma[...] = weight, 1
        self.running_mean = np.zeros(n_out, np.float32)
        self.running_var = np.ones(n_out, np.float32)

    def forward(self, a: np.ndarray) -> np.ndarray:
        """Return y (outputs, samples) of a (inputs, samples)."""
        n = a.shape[1]
        xhat = self.weight @ a
        mean = xhat.mean(axis=1)
        xhat -= mean[:, None]
        var = np.einsum("ij,ij->i", xhat, xhat) / np.float32(n)
        rstd = ONE / np.sqrt(var + EPS)
        xhat *= rstd[:, None]
        self.a, self.xhat, self.rstd = a, xhat, rstd
        momentum = np.float32(work.MOMENTUM)
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (var * np.float32(n / (n - 1)) - self.running_var)
        y = xhat * self.gamma[:, None]
        y += self.beta[:, None]
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Set the gradients, and turn dy into that of the product."""
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
        scale = self.gamma / np.sqrt(self.running_var + EPS)
        return (self.weight * scale[:, None]) @ a + (self.beta - self.running_mean * scale)[:, None]


def leaky_relu(y: np.ndarray) -> np.ndarray:
    """Return y, or what is left of it where it is negative."""
    return np.maximum(y, SLOPE * y)


class NumpyNet:
    """Layers of batch norm, LeakyReLU between them, softmax and Adam."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        weights = work.weights(sizes)
        ends = np.cumsum([weight.size + 2 * len(weight) for weight in weights])
        self.params, self.grads, self.m, self.v = np.zeros((4, ends[-1]), np.float32)
        starts = [0, *ends[:-1]]
        self.layers = [
            Layer(self.params[start:end], self.grads[start:end], weight)
            for start, end, weight in zip(starts, ends, weights, strict=True)
        ]
        self.steps = 0

    def first_step(self, x: np.ndarray, y: np.ndarray) -> float:
        """Take a step."""
        loss, _ = self.step(x, y)
        return loss

    def take(self, X: np.ndarray, y: np.ndarray) -> None:
        """Convert the images once."""
        self.center, self.scale = work.min_max(X)
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

    def step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
        """Take a step on x (samples, features); return its loss and hits."""
        hidden, last = self.layers
        pre = hidden.forward(x.T)
        p = last.forward(leaky_relu(pre))
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
        da = last.weight.T @ last.backward(p)
        np.multiply(da, SLOPE, out=da, where=pre < 0)
        hidden.backward(da)
        self.adam()
        return loss, hits

    def adam(self) -> None:
        """Take a step of Adam on all parameters at once."""
        self.steps += 1
        g, m, v = self.grads, self.m, self.v
        m += np.float32(1 - work.BETA1) * (g - m)
        v *= np.float32(work.BETA2)
        g *= g
        g *= np.float32(1 - work.BETA2)
        v += g
        root = np.sqrt(v)
        root *= np.float32(1 / math.sqrt(1 - work.BETA2**self.steps))
        root += np.float32(work.ADAM_EPS)
        np.divide(m, root, out=root)
        root *= np.float32(work.LR / (1 - work.BETA1**self.steps))
        self.params -= root

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Test."""
        hidden, last = self.layers
        logits = last.infer(leaky_relu(hidden.infer(self.scaled(X).T)))
        return float((logits.argmax(axis=0) == y).mean())

    def save(self, path: str) -> None:
        """Write an NPZ file."""
        work.save_layers(
            path,
            [
                (layer.weight, layer.gamma, layer.beta, layer.running_mean, layer.running_var)
                for layer in self.layers
            ],
        )


if __name__ == "__main__":
    work.main(NumpyNet)
