"""A whole network, compiled: many training steps, or the logits of many samples, in one call.

Activations are feature-major, (units, rows of the minibatch); the input stays sample-major, as it
came. Parameters, gradients and both moments are four flat buffers, and a table says where each
layer's tensors lie in them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastbn._jit import njit
from fastbn.kernels.activations import (
    bias_activation_backward_cn,
    bias_activation_forward_cn,
    dropout,
    dropout_key,
)
from fastbn.kernels.batchnorm import (
    batch_norm_backward_cn,
    batch_norm_forward_cn,
    batch_norm_inference_cn,
    update_running_statistics,
)
from fastbn.kernels.gemm import matmul_nn, matmul_nt, matmul_tn
from fastbn.kernels.losses import count_correct_cn, softmax_cross_entropy_cn
from fastbn.kernels.optimizers import adam, clip_factor, rmsprop, sgd
from fastbn.kernels.preprocessing import gather_rows, scale_rows

# columns of the layer table
N_IN, N_OUT, WEIGHT, GAMMA, BETA, UNIT, NORMALIZED = range(7)

# codes of the optimizers
ADAM, ADAMW, SGD, RMSPROP = range(4)


class Network(NamedTuple):
    """What a network is. A layer without batch norm keeps its bias where BETA points."""

    layers: np.ndarray  # (layers, 7) int64: the columns above
    params: np.ndarray  # (K,)
    grads: np.ndarray  # (K,)
    m: np.ndarray  # (K,)
    v: np.ndarray  # (K,)
    running_mean: np.ndarray  # (units,)
    running_var: np.ndarray  # (units,)


class Recipe(NamedTuple):
    """How it is trained. `eps` and `slope` have the dtype of the parameters."""

    eps: np.floating
    slope: np.floating
    momentum: float
    exact: bool
    dropout: float
    seed: int  # of the dropout masks
    optimizer: int
    beta1: float
    beta2: float
    optimizer_eps: float
    weight_decay: float
    max_norm: float


class Workspace(NamedTuple):
    """Scratch memory for minibatches of up to `rows` samples, all flat."""

    x: np.ndarray  # (rows * inputs,)
    labels: np.ndarray  # (rows,) int64
    weight: np.ndarray  # (rows,)
    z: np.ndarray  # (rows * units,) pre-activations of all layers
    a: np.ndarray  # (rows * units,) activations of all layers
    da: np.ndarray  # (rows * widest layer,)
    dz: np.ndarray  # (rows * widest layer,)
    loss: np.ndarray  # (3 * rows,)
    mean: np.ndarray  # (units,)
    var: np.ndarray  # (units,)
    rstd: np.ndarray  # (units,)


class Samples(NamedTuple):
    """The data, and the scaling that is applied when a minibatch is gathered."""

    x: np.ndarray  # (N, inputs)
    labels: np.ndarray  # (N,) int64
    weight: np.ndarray  # (N,), or (0,) for equal weights
    center: np.ndarray  # (inputs,)
    scale: np.ndarray  # (inputs,)


@njit
def tensor(buffer, layer, column):
    """View of a layer's vector (gamma, beta or bias) in a flat buffer."""
    return buffer[layer[column] : layer[column] + layer[N_OUT]]


@njit
def matrix(buffer, layer):
    """View (outputs, inputs) of a layer's weight in a flat buffer."""
    size = layer[N_OUT] * layer[N_IN]
    return buffer[layer[WEIGHT] : layer[WEIGHT] + size].reshape(layer[N_OUT], layer[N_IN])


@njit
def units(buffer, layer, rows):
    """View (outputs, rows) of a layer's activations in a flat buffer."""
    first = layer[UNIT] * rows
    return buffer[first : first + layer[N_OUT] * rows].reshape(layer[N_OUT], rows)


@njit
def features(buffer, layer):
    """View (outputs,) of a layer's statistics in a flat buffer."""
    return buffer[layer[UNIT] : layer[UNIT] + layer[N_OUT]]


@njit
def as_batch(x):
    """View (1, C, N) of a feature-major matrix: the shape that the batch norm kernels take."""
    return x.reshape(1, x.shape[0], x.shape[1])


@njit
def layer_slope(network, recipe, index):
    """The activation's slope: the last layer has none, which is slope 1."""
    one = network.params.dtype.type(1)
    return one if index == network.layers.shape[0] - 1 else recipe.slope


@njit
def forward(network, recipe, work, rows, step):
    """Activations of all layers from work.x, in training: z, a and the batch's statistics."""
    for index in range(network.layers.shape[0]):
        layer = network.layers[index]
        z, a = units(work.z, layer, rows), units(work.a, layer, rows)
        weight, beta = matrix(network.params, layer), tensor(network.params, layer, BETA)
        slope = layer_slope(network, recipe, index)
        if index == 0:
            matmul_nt(weight, work.x[: rows * layer[N_IN]].reshape(rows, layer[N_IN]), z)
        else:
            matmul_nn(weight, units(work.a, network.layers[index - 1], rows), z)
        if layer[NORMALIZED]:
            gamma = tensor(network.params, layer, GAMMA)
            mean, var = features(work.mean, layer), features(work.var, layer)
            batch_norm_forward_cn(
                as_batch(z), gamma, beta, recipe.eps, slope, 0, layer[N_OUT],
                as_batch(a), mean, var, features(work.rstd, layer),
            )  # fmt: skip
            update_running_statistics(
                mean, var, rows, recipe.momentum, True,
                features(network.running_mean, layer), features(network.running_var, layer),
            )  # fmt: skip
        else:
            bias_activation_forward_cn(z, beta, slope, a)
        if recipe.dropout > 0 and index < network.layers.shape[0] - 1:
            dropout(a.reshape(a.size), recipe.dropout, dropout_key(recipe.seed, step, index))


@njit
def backward(network, recipe, work, rows, step):
    """All gradients, from the gradient of the last layer's output in work.da."""
    for index in range(network.layers.shape[0] - 1, -1, -1):
        layer = network.layers[index]
        z = units(work.z, layer, rows)
        da = work.da[: z.size].reshape(z.shape)
        dz = work.dz[: z.size].reshape(z.shape)
        weight, dweight = matrix(network.params, layer), matrix(network.grads, layer)
        beta, dbeta = tensor(network.params, layer, BETA), tensor(network.grads, layer, BETA)
        slope = layer_slope(network, recipe, index)
        if recipe.dropout > 0 and index < network.layers.shape[0] - 1:
            dropout(da.reshape(da.size), recipe.dropout, dropout_key(recipe.seed, step, index))
        if layer[NORMALIZED]:
            batch_norm_backward_cn(
                as_batch(da), as_batch(z), tensor(network.params, layer, GAMMA), beta,
                features(work.mean, layer), features(work.rstd, layer), slope, recipe.exact,
                0, layer[N_OUT], as_batch(dz), tensor(network.grads, layer, GAMMA), dbeta,
            )  # fmt: skip
        else:
            bias_activation_backward_cn(da, z, beta, slope, dz, dbeta)
        if index == 0:
            matmul_nn(dz, work.x[: rows * layer[N_IN]].reshape(rows, layer[N_IN]), dweight)
        else:
            previous = units(work.a, network.layers[index - 1], rows)
            matmul_nt(dz, previous, dweight)
            matmul_tn(weight, dz, work.da[: previous.size].reshape(previous.shape))


@njit
def update(network, recipe, lr, step):
    """One step of the optimizer over all parameters; `step` counts from 1."""
    params, grads, m, v = network.params, network.grads, network.m, network.v
    clip = clip_factor(grads, recipe.max_norm)
    if recipe.optimizer == SGD:
        sgd(params, grads, m, clip, lr, recipe.beta1, False, recipe.weight_decay, 0, params.size)
    elif recipe.optimizer == RMSPROP:
        rmsprop(
            params, grads, v, clip, lr, recipe.beta2, recipe.optimizer_eps, recipe.weight_decay,
            0, params.size,
        )  # fmt: skip
    else:
        adam(
            params, grads, m, v, clip, lr, recipe.beta1, recipe.beta2, recipe.optimizer_eps,
            1.0 - recipe.beta1**step, 1.0 - recipe.beta2**step,
            recipe.weight_decay, recipe.optimizer == ADAMW, 0, params.size,
        )  # fmt: skip


@njit
def gather(samples, order, work):
    """Copy the minibatch `order` into the workspace, its weights scaled to add up to 1."""
    rows, inputs = order.size, samples.x.shape[1]
    number = work.weight.dtype.type
    x = work.x[: rows * inputs].reshape(rows, inputs)
    gather_rows(samples.x, order, samples.center, samples.scale, x)
    total = 0.0
    for r in range(rows):
        work.labels[r] = samples.labels[order[r]]
        if samples.weight.size:
            total += samples.weight[order[r]]
    for r in range(rows):
        if samples.weight.size == 0:
            work.weight[r] = number(1.0 / rows)
        elif total > 0:
            work.weight[r] = number(samples.weight[order[r]] / total)
        else:
            work.weight[r] = number(0.0)


@njit
def train_steps(
    network,
    recipe,
    work,
    samples,
    order,  # (M,) row numbers, minibatch after minibatch
    bounds,  # (S + 1,) minibatch s is order[bounds[s] : bounds[s + 1]]
    lrs,  # (S,) learning rate of each step
    first_step,  # optimizer steps done before
    losses,  # out (S,) mean loss of each minibatch
    correct,  # out (S,) its correctly classified samples
):
    """Train S steps: gather, forward, loss, backward, update."""
    for s in range(lrs.size):
        rows = bounds[s + 1] - bounds[s]
        step = first_step + s + 1
        gather(samples, order[bounds[s] : bounds[s + 1]], work)
        forward(network, recipe, work, rows, step)
        logits = units(work.a, network.layers[-1], rows)
        labels = work.labels[:rows]
        correct[s] = count_correct_cn(logits, labels, work.loss[:rows])
        losses[s] = softmax_cross_entropy_cn(
            logits, labels, work.weight[:rows], 0.0,
            work.loss[: 3 * rows].reshape(3, rows), work.da[: logits.size].reshape(logits.shape),
        )  # fmt: skip
        backward(network, recipe, work, rows, step)
        update(network, recipe, lrs[s], step)


@njit
def infer_logits(
    network,
    recipe,
    work,
    samples,  # labels and weights are not looked at
    rows,  # samples at a time
    logits,  # out (N, classes)
):
    """Logits of all samples with the running statistics, minibatch after minibatch."""
    last = network.layers.shape[0] - 1
    for first in range(0, samples.x.shape[0], rows):
        x = samples.x[first : first + rows]
        count = x.shape[0]
        scaled = work.x[: x.size].reshape(x.shape)
        scale_rows(x, samples.center, samples.scale, work.weight.dtype.type(0), scaled)
        for index in range(last + 1):
            layer = network.layers[index]
            z, a = units(work.z, layer, count), units(work.a, layer, count)
            weight, beta = matrix(network.params, layer), tensor(network.params, layer, BETA)
            slope = layer_slope(network, recipe, index)
            if index == 0:
                matmul_nt(weight, scaled, z)
            else:
                matmul_nn(weight, units(work.a, network.layers[index - 1], count), z)
            if layer[NORMALIZED]:
                batch_norm_inference_cn(
                    as_batch(z), features(network.running_mean, layer),
                    features(network.running_var, layer), tensor(network.params, layer, GAMMA),
                    beta, recipe.eps, slope, 0, layer[N_OUT], as_batch(a),
                )  # fmt: skip
            else:
                bias_activation_forward_cn(z, beta, slope, a)
        result = units(work.a, network.layers[last], count)
        for i in range(count):
            for k in range(result.shape[0]):
                logits[first + i, k] = result[k, i]
