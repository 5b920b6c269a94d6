"""A training loop in plain NumPy, in which fastbn replaces one function after the other.

    python examples/numpy_loop.py [--samples 6000] [--batch 128] [--repeats 7]

prints the time of a step after each replacement, on random data of Fashion-MNIST's shape. All
stages take turns. docs/numpy.md explains the loop.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np

import fastbn

SIZES, SLOPE, LR, EPS = (784, 256, 128, 10), 0.01, 1e-3, 1e-5


# -- plain NumPy: each column is a sample ----------------------------------------------------------


def batch_norm(z, gamma, beta, slope):
    mean, var = z.mean(axis=1, keepdims=True), z.var(axis=1, keepdims=True)
    zhat = (z - mean) / np.sqrt(var + np.float32(EPS))
    y = gamma[:, None] * zhat + beta[:, None]
    return np.where(y > 0, y, np.float32(slope) * y), (zhat, var, y)


def batch_norm_backward(da, gamma, beta, slope, kept):
    zhat, var, y = kept
    dy = da * np.where(y > 0, np.float32(1), np.float32(slope))
    dgamma, dbeta = (dy * zhat).sum(axis=1), dy.sum(axis=1)
    n = np.float32(dy.shape[1])
    scale = gamma[:, None] / np.sqrt(var + np.float32(EPS))
    return scale * (dy - dbeta[:, None] / n - zhat * dgamma[:, None] / n), dgamma, dbeta


def cross_entropy(logits, labels):
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    columns = np.arange(labels.size)
    loss = -np.log(p[labels, columns]).mean()
    p[labels, columns] -= 1
    return loss, p / np.float32(labels.size)


def adam(param, grad, m, v, step):
    m[...] = 0.9 * m + 0.1 * grad
    v[...] = 0.999 * v + 0.001 * grad**2
    param -= LR * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)


# -- fastbn's --------------------------------------------------------------------------------------


def fast_batch_norm(z, gamma, beta, slope):
    options = {"eps": EPS, "layout": "CN", "activation": "leaky_relu", "negative_slope": slope}
    a, mean, rstd = fastbn.batch_norm(z, gamma, beta, **options)
    return a, (z, mean, rstd)


def fast_batch_norm_backward(da, gamma, beta, slope, kept):
    z, mean, rstd = kept
    options = {"layout": "CN", "activation": "leaky_relu", "negative_slope": slope}
    return fastbn.batch_norm_backward(da, z, gamma, beta, mean, rstd, **options, out=da)


def fast_cross_entropy(logits, labels):
    return fastbn.softmax_cross_entropy(logits, labels, layout="CN")


def fast_adam(param, grad, m, v, step):
    fastbn.adam_step(param, grad, m, v, step=step, lr=LR)


# -- the loop --------------------------------------------------------------------------------------


class Net:
    """Weights (out, in), gamma and beta of each layer, and both moments of each tensor."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.params = []
        for n_in, n_out in itertools.pairwise(SIZES):
            weight = rng.standard_normal((n_out, n_in)) * np.sqrt(2 / (1 + SLOPE**2) / n_in)
            self.params += [weight.astype("f4"), np.ones(n_out, "f4"), np.zeros(n_out, "f4")]
        self.m, self.v = ([np.zeros_like(p) for p in self.params] for _ in range(2))
        self.step = 0


def train(net, x, labels, batch, stage):
    """One pass over the samples x (N, features), in order; returns the losses."""
    forward, backward, loss_of, update = stage
    losses, layers = [], len(SIZES) - 1
    slopes = [SLOPE] * (layers - 1) + [1.0]
    for first in range(0, len(x), batch):
        a, kept = np.ascontiguousarray(x[first : first + batch].T), []
        for layer in range(layers):
            weight, gamma, beta = net.params[3 * layer : 3 * layer + 3]
            inputs = a
            a, memory = forward(weight @ inputs, gamma, beta, slopes[layer])
            kept.append((inputs, memory))
        loss, da = loss_of(a, labels[first : first + batch])
        losses.append(loss)
        grads = [None] * len(net.params)
        for layer in reversed(range(layers)):
            weight, gamma, beta = net.params[3 * layer : 3 * layer + 3]
            inputs, memory = kept[layer]
            dz, dgamma, dbeta = backward(da, gamma, beta, slopes[layer], memory)
            grads[3 * layer : 3 * layer + 3] = dz @ inputs.T, dgamma, dbeta
            if layer > 0:
                da = weight.T @ dz
        net.step += 1
        for state in zip(net.params, grads, net.m, net.v, strict=True):
            update(*state, net.step)
    return losses


NUMPY = (batch_norm, batch_norm_backward, cross_entropy, adam)
STAGES = {
    "NumPy": NUMPY,
    "fastbn.adam_step": (*NUMPY[:3], fast_adam),
    "fastbn.batch_norm": (fast_batch_norm, fast_batch_norm_backward, cross_entropy, fast_adam),
    "fastbn.softmax_cross_entropy": (
        fast_batch_norm, fast_batch_norm_backward, fast_cross_entropy, fast_adam,
    ),
}  # fmt: skip
MODEL = "fastbn.BatchNormMLP"


def runs(x, labels, batch):
    """Yield the name of each stage, and a function that trains one pass and returns its losses."""
    for name, stage in STAGES.items():
        net = Net()
        yield name, lambda net=net, stage=stage: train(net, x, labels, batch, stage)
    model = fastbn.BatchNormMLP(SIZES, eps=EPS, negative_slope=SLOPE, lr=LR)
    for (_, tensor), start in zip(model.named_parameters(), Net().params, strict=True):
        tensor[...] = start
    yield MODEL, lambda: model.partial_fit(x, labels, batch_size=batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((options.samples, SIZES[0]), dtype="f4")
    labels = rng.integers(0, SIZES[-1], options.samples)
    stages = dict(runs(x, labels, options.batch))
    times = {name: [] for name in stages}
    for repeat in range(options.repeats + 1):  # the first repeat compiles
        for name, run in list(stages.items())[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            run()
            if repeat > 0:
                times[name].append(time.perf_counter() - start)
    steps, plain = -(-options.samples // options.batch), statistics.median(times["NumPy"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:30} {median / steps * 1e6:8,.0f} us a step  {plain / median:5.2f}")


if __name__ == "__main__":
    main()
