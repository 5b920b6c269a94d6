"""Call kernels from your own compiled code: train a network with one hidden layer.

    python examples/own_loop.py

Numba compiles `train` together with the kernels it calls. `np.dot` in compiled code needs scipy.
"""

import numba
import numpy as np

from fastbn.kernels.batchnorm import batch_norm_backward_cn, batch_norm_forward_cn
from fastbn.kernels.losses import softmax_cross_entropy_cn
from fastbn.kernels.optimizers import adam


@numba.njit
def train(x, labels, hidden, classes, steps, lr, rng):
    """Return the losses of `steps` full-batch Adam steps on x (features, samples)."""
    inputs, n = x.shape
    number = x.dtype.type
    eps, slope, none = number(1e-5), number(0.01), number(1.0)
    # one flat buffer: W1, gamma, beta, W2
    a, b, c = hidden * inputs, hidden * inputs + hidden, hidden * inputs + 2 * hidden
    params = np.zeros(c + classes * hidden, x.dtype)
    for i in range(a):
        params[i] = rng.standard_normal() * np.sqrt(2 / inputs)
    for i in range(c, params.size):
        params[i] = rng.standard_normal() * np.sqrt(2 / hidden)
    params[a:b] = none
    grads, m, v = np.zeros_like(params), np.zeros_like(params), np.zeros_like(params)
    W1, gamma, beta = params[:a].reshape(hidden, inputs), params[a:b], params[b:c]
    W2 = params[c:].reshape(classes, hidden)
    dgamma, dbeta = grads[a:b], grads[b:c]

    # the kernels take (B, features, samples): B is 1 for a matrix
    y, dz = np.empty((1, hidden, n), x.dtype), np.empty((1, hidden, n), x.dtype)
    mean, var, rstd = (
        np.empty(hidden, x.dtype),
        np.empty(hidden, x.dtype),
        np.empty(hidden, x.dtype),
    )
    dlogits, work = np.empty((classes, n), x.dtype), np.empty((3, n), x.dtype)
    weight = np.full(n, number(1.0 / n))
    losses = np.empty(steps)
    for step in range(1, steps + 1):
        z = np.dot(W1, x).reshape(1, hidden, n)
        batch_norm_forward_cn(z, gamma, beta, eps, slope, 0, hidden, y, mean, var, rstd)
        logits = np.dot(W2, y[0])
        losses[step - 1] = softmax_cross_entropy_cn(
            logits, labels, weight, 0.0, 0, n, work, dlogits
        )
        grads[c:] = np.dot(dlogits, y[0].T).reshape(-1)
        dy = np.dot(W2.T, dlogits).reshape(1, hidden, n)
        batch_norm_backward_cn(
            dy, z, gamma, beta, mean, rstd, slope, True, 0, hidden, dz, dgamma, dbeta
        )
        grads[:a] = np.dot(dz[0], x.T).reshape(-1)
        adam(
            params, grads, m, v, 1.0, lr, 0.9, 0.999, 1e-8,
            1 - 0.9**step, 1 - 0.999**step, 0.0, False, 0, params.size,
        )  # fmt: skip
    return losses


def main():
    """Train on the embedded digits, and print some of the losses."""
    from fastbn.datasets import load_digits

    data = load_digits()
    x = np.ascontiguousarray(data.X_train.T, dtype=np.float32) / np.float32(16)
    losses = train(x, data.y_train, 64, 10, 100, 0.01, np.random.default_rng(0))
    for step in (0, 9, 99):
        print(f"step {step + 1:3d}  loss {losses[step]:.4f}")
    return losses


if __name__ == "__main__":
    main()
