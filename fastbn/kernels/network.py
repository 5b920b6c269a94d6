"""A whole network, compiled: many training steps, or the logits of many samples, in one call.

Activations are feature-major, (units, rows of the minibatch); the input stays sample-major, as it
came. Parameters, gradients and both moments are four flat buffers, and a table says where each
layer's tensors lie in them.

All members of a team run the same call. Of each phase a member does its share: some features of a
layer, some samples of the loss, some parameters of the update. What a feature needs of its row
follows the product that made it, while the row is in cache, and a barrier stands only where a
member needs what others have made. No sum crosses a share, so the bits do not depend on shares.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import (
    TILE_ROWS,
    flush_denormals,
    mark,
    restore_denormals,
    strided,
    view,
)
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
from fastbn.kernels.batchnorm_weighted import (
    weighted_batch_norm_backward_cn,
    weighted_batch_norm_forward_cn,
)
from fastbn.kernels.curves import NONE, curve_backward, curve_forward
from fastbn.kernels.gemm import (
    DEPTH,
    multiply,
    multiply_panel,
    pack_columns,
    pack_rows,
    panel_width,
)
from fastbn.kernels.losses import (
    count_agreeing_cn,
    count_correct_cn,
    sigmoid_cross_entropy_cn,
    softmax_cross_entropy_cn,
    squared_error_cn,
)
from fastbn.kernels.optimizers import adam, clip_factor, rmsprop, sgd
from fastbn.kernels.preprocessing import gather_panels, gather_rows, row_at
from fastbn.kernels.reductions import is_finite, row_sum
from fastbn.parallel.team import alone_in, barrier, share

# columns of the layer table
N_IN, N_OUT, WEIGHT, GAMMA, BETA, UNIT, PADDED_UNIT, NORMALIZED = range(8)

# codes of the optimizers
ADAM, ADAMW, SGD, RMSPROP = range(4)

# codes of the losses
SOFTMAX, SIGMOID, SQUARED_ERROR = range(3)

# What a member has just done where it marks the time: kind + KINDS * layer.
(
    BEGIN, GATHER, PRODUCT, FORWARD, DROPOUT, PACK, LOSS, INPUT_GRADIENT, BACKWARD, PACK_GRADIENT,
    GATHER_AGAIN, WEIGHT_GRADIENT, CLIP, UPDATE, WAIT, KINDS,
) = range(16)  # fmt: skip


class Network(NamedTuple):
    """What a network is. A layer without batch norm keeps its bias where BETA points."""

    layers: np.ndarray  # (layers, 8) int64: the columns above
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
    curve: int  # of the hidden layers, behind LeakyReLU with slope 1
    momentum: float
    unbiased: bool  # running variances
    weighted: bool  # statistics of the batch
    exact: bool
    dropout: float
    seed: int  # of the dropout masks
    loss: int
    smoothing: float  # of the labels
    optimizer: int
    beta1: float
    beta2: float
    optimizer_eps: float
    nesterov: bool
    weight_decay: float
    decay_vectors: bool  # gamma, beta and biases, as well as weights
    max_norm: float
    keeps_rows: bool  # whether a member's features of the first layer are its own all along
    learns: bool  # or else a step only tells its loss


class Workspace(NamedTuple):
    """Scratch memory for minibatches of up to `rows` samples, all flat.

    `padded` rows or units are rounded up to whole panels (kernels/gemm.py). Inference uses x,
    labels, z, a and a_panels alone, and the rest may be empty.
    """

    x: np.ndarray  # (members, DEPTH * padded inputs) a member's part of the minibatch
    labels: np.ndarray  # (rows,) int64
    weight: np.ndarray  # (rows,)
    z: np.ndarray  # (rows * units,) pre-activations of all layers
    a: np.ndarray  # (rows * widest layer,) activations of one layer
    a_panels: np.ndarray  # (padded rows * units,) activations of all layers, as right operands
    at_panels: np.ndarray  # (rows * padded units,) their transposes
    da: np.ndarray  # (rows * widest layer,)
    dz: np.ndarray  # (rows * widest layer,)
    dz_panels: np.ndarray  # (2, padded rows * widest layer)
    loss: np.ndarray  # (3 * rows,)
    mean: np.ndarray  # (units,)
    var: np.ndarray  # (units,)
    rstd: np.ndarray  # (units,)
    partial: np.ndarray  # (parts,) float64: losses of PART_ROWS samples each
    hits: np.ndarray  # (parts,) int64: their correctly classified ones


class Samples(NamedTuple):
    """The data, and the scaling that is applied when a minibatch is gathered."""

    x: np.ndarray  # (N, inputs), of the parameters' dtype or bytes
    labels: np.ndarray  # (N,) int64, or (0,) where the loss takes targets
    targets: np.ndarray  # (N, outputs), or (0, outputs) where it takes labels
    weight: np.ndarray  # (N,), or (0,) for equal weights
    center: np.ndarray  # (inputs,)
    scale: np.ndarray  # (inputs,)


# Samples of the loss that one member takes at a time.
PART_ROWS = 512


@njit_inlined
def tensor(buffer, layer, column):
    """View of a layer's vector (gamma, beta or bias) in a flat buffer."""
    return view(buffer, layer[column], (layer[N_OUT],))


@njit_inlined
def matrix(buffer, layer):
    """View (outputs, inputs) of a layer's weight in a flat buffer."""
    return view(buffer, layer[WEIGHT], (layer[N_OUT], layer[N_IN]))


@njit_inlined
def units(buffer, layer, rows):
    """View (outputs, rows) of a layer's activations in a flat buffer."""
    return view(buffer, layer[UNIT] * rows, (layer[N_OUT], rows))


@njit_inlined
def features(buffer, layer):
    """View (outputs,) of a layer's statistics in a flat buffer."""
    return view(buffer, layer[UNIT], (layer[N_OUT],))


@njit_inlined
def as_batch(x):
    """View (1, C, N) of a feature-major matrix: the shape that the batch norm kernels take."""
    return view(x, 0, (1, x.shape[0], x.shape[1]))


@njit_inlined
def layer_slope(network, recipe, index):
    """The activation's slope: the last layer has none, which is slope 1."""
    one = network.params.dtype.type(1)
    return one if index == network.layers.shape[0] - 1 else recipe.slope


@njit
def whole(n, size):
    """Pieces of `size` that n takes, the last one perhaps smaller."""
    return (n + size - 1) // size


@njit
def share_rows(n, member):
    """Rows of n that are this member's: whole tiles, but for the last."""
    first, last = share(whole(n, TILE_ROWS), member)
    return first * TILE_ROWS, min(last * TILE_ROWS, n)


@njit_inlined
def share_tasks(rows, columns, width, kept, member):
    """Cut a product of the data into tasks, a group of rows by a panel of columns each.

    A member that keeps its rows does them for all panels. Otherwise it does some panels, and rows
    are cut only where there are few. The result is this member's first and last task, and how many
    groups the rows are cut into.
    """
    panels = whole(columns, width)
    tiles = whole(rows, TILE_ROWS)
    groups = 1 if panels % member.size == 0 else min(tiles, 1 + 4 * member.size // panels)
    first, last = share(panels * groups, member)
    return (0, panels, 1) if kept else (first, last, groups)


@njit
def task_place(task, groups, rows, kept, member):
    """Panel, first row and last row of a task of `share_tasks`."""
    tiles = whole(rows, TILE_ROWS)
    part, parts = (member.rank, member.size) if kept else (task % groups, groups)
    first, last = tiles * part // parts, tiles * (part + 1) // parts
    return task // groups, first * TILE_ROWS, min(last * TILE_ROWS, rows)


@njit_inlined
def multiply_data(network, work, samples, order, kept, member):
    """z of the first layer: its weight times the minibatch transposed.

    A panel of samples is gathered, scaled, transposed and used while it is in cache.
    """
    layer = network.layers[0]
    rows, inputs = order.size, layer[N_IN]
    width = panel_width(work.z)
    z = units(work.z, layer, rows)
    weight = strided(matrix(network.params, layer))
    gathered = work.x[member.rank, : width * inputs]
    panel = work.x[member.rank, width * inputs : 2 * width * inputs]
    present = -1
    first, last, groups = share_tasks(layer[N_OUT], rows, width, kept, member)
    for task in range(first, last):
        p, i, stop = task_place(task, groups, layer[N_OUT], kept, member)
        j = p * width
        count = min(width, rows - j)
        if p != present:
            x = view(gathered, 0, (count, inputs))
            gather_rows(samples.x, order, j, j + count, samples.center, samples.scale, x)
            pack_columns(x, panel, 0, count)
            present = p
            mark(member.log, GATHER)
        for k in range(0, inputs, DEPTH):
            part, add = min(DEPTH, inputs - k), 1 if k > 0 else 0
            multiply_panel(weight, k, part, panel, k * width, z, i, stop, j, add)
        mark(member.log, PRODUCT)


@njit_inlined
def multiply_by_data(network, work, samples, order, kept, member):
    """Gradient of the first layer's weight: dz times the minibatch, gathered once more."""
    layer = network.layers[0]
    rows, inputs = order.size, layer[N_IN]
    width = panel_width(work.z)
    dz = strided(view(work.dz, 0, (layer[N_OUT], rows)))
    dweight = matrix(network.grads, layer)
    first, last, groups = share_tasks(layer[N_OUT], inputs, width, kept, member)
    panels = work.x[member.rank]
    j_first = first // groups * width
    j_last = min(((last - 1) // groups + 1) * width, inputs)
    for k in range(0, rows if first < last else 0, DEPTH):
        part, add = min(DEPTH, rows - k), 1 if k > 0 else 0
        gather_panels(
            samples.x, order, k, k + part, samples.center, samples.scale, j_first, j_last, panels
        )
        mark(member.log, GATHER_AGAIN)
        for task in range(first, last):
            p, i, stop = task_place(task, groups, layer[N_OUT], kept, member)
            start = (p * width - j_first) * part
            multiply_panel(dz, k, part, panels, start, dweight, i, stop, p * width, add)
        mark(member.log, WEIGHT_GRADIENT)


@njit_inlined
def gather_weights(samples, order, work, first, last):
    """Copy weights of the minibatch; those of all of it add up to 1."""
    number = work.weight.dtype.type
    weights, n = samples.weight, samples.weight.size
    total = 0.0
    for r in range(order.size):
        total += weights[row_at(order, r, n)] if n else 1.0
    for r in range(first, last):
        weight = weights[row_at(order, r, n)] if n else number(1.0)
        work.weight[r] = number(weight / total) if total > 0 else number(0.0)


@njit_inlined
def forward(network, recipe, work, samples, order, step, member):
    """Activations of all layers, in training, and the statistics of the batch."""
    rows = order.size
    width = panel_width(work.z)
    padded = whole(rows, width) * width
    first, last = share(rows, member)
    gather_weights(samples, order, work, first, last)
    multiply_data(network, work, samples, order, recipe.keeps_rows, member)
    if not recipe.keeps_rows:
        barrier(member)
        mark(member.log, WAIT)
    for index in range(network.layers.shape[0]):
        layer, place = network.layers[index], KINDS * index
        first, last = share_rows(layer[N_OUT], member)
        z = units(work.z, layer, rows)
        a = view(work.a, 0, z.shape)
        if index > 0:
            previous = network.layers[index - 1]
            panels = work.a_panels[previous[UNIT] * padded :]
            weight = strided(matrix(network.params, layer))
            multiply(weight, panels, layer[N_IN], z, first, last)
            mark(member.log, PRODUCT + place)
        activate(network, recipe, work, index, z, first, last, a)
        mark(member.log, FORWARD + place)
        if index < network.layers.shape[0] - 1:
            values = view(a, first * rows, ((last - first) * rows,))
            if recipe.curve != NONE:
                curve_forward(recipe.curve, values)
                mark(member.log, FORWARD + place)
            if recipe.dropout > 0:
                key = dropout_key(recipe.seed, step, index)
                dropout(values, first * rows, recipe.dropout, key)
                mark(member.log, DROPOUT + place)
            pack_rows(a, work.a_panels[layer[UNIT] * padded :], first, last)
            pack_columns(a, work.at_panels[layer[PADDED_UNIT] * rows :], first, last)
            mark(member.log, PACK + place)
        barrier(member)
        mark(member.log, WAIT + place)


@njit_inlined
def activate(network, recipe, work, index, z, first, last, a):
    """Features first to last of a layer: statistics, normalization, activation."""
    layer = network.layers[index]
    beta = tensor(network.params, layer, BETA)
    slope = layer_slope(network, recipe, index)
    if not layer[NORMALIZED]:
        bias_activation_forward_cn(z, beta, slope, first, last, a)
        return
    gamma, rows = tensor(network.params, layer, GAMMA), z.shape[1]
    mean, var = features(work.mean, layer), features(work.var, layer)
    rstd = features(work.rstd, layer)
    if recipe.weighted:
        weight = work.weight[:rows]
        weighted_batch_norm_forward_cn(
            z, weight, gamma, beta, recipe.eps, slope, first, last, a, mean, var, rstd
        )
        if not row_sum(weight) > 0:  # nothing has been measured
            return
    else:
        batch_norm_forward_cn(
            as_batch(z), gamma, beta, recipe.eps, slope, first, last, as_batch(a), mean, var, rstd
        )
    update_running_statistics(
        mean[first:last], var[first:last], rows, recipe.momentum, recipe.unbiased,
        features(network.running_mean, layer)[first:last],
        features(network.running_var, layer)[first:last],
    )  # fmt: skip


@njit_inlined
def differentiate_curve(network, recipe, work, index, z, first, last, da):
    """Gradient before the curve, of features first to last, from that behind it."""
    layer = network.layers[index]
    beta, number = tensor(network.params, layer, BETA), z.dtype.type
    for c in range(first, last):
        shift, scale = number(0), number(1)
        if layer[NORMALIZED]:
            shift = features(work.mean, layer)[c]
            scale = tensor(network.params, layer, GAMMA)[c] * features(work.rstd, layer)[c]
        curve_backward(recipe.curve, z[c], shift, scale, beta[c], da[c])


@njit_inlined
def backward(network, recipe, work, samples, order, step, member):
    """All gradients, from the gradient of the last layer's output in work.da."""
    rows = order.size
    for index in range(network.layers.shape[0] - 1, -1, -1):
        layer, place = network.layers[index], KINDS * index
        first, last = share_rows(layer[N_OUT], member)
        z = units(work.z, layer, rows)
        da = view(work.da, 0, z.shape)
        dz = view(work.dz, 0, z.shape)
        if index < network.layers.shape[0] - 1:
            following = network.layers[index + 1]
            panels = work.dz_panels[(index + 1) % 2]
            weight = matrix(network.params, following)
            multiply(strided(weight.T), panels, following[N_OUT], da, first, last)
            mark(member.log, INPUT_GRADIENT + KINDS + place)
            if recipe.dropout > 0:
                key = dropout_key(recipe.seed, step, index)
                values = view(da, first * rows, ((last - first) * rows,))
                dropout(values, first * rows, recipe.dropout, key)
                mark(member.log, DROPOUT + place)
            if recipe.curve != NONE:
                differentiate_curve(network, recipe, work, index, z, first, last, da)
        beta, dbeta = tensor(network.params, layer, BETA), tensor(network.grads, layer, BETA)
        slope = layer_slope(network, recipe, index)
        if layer[NORMALIZED] and recipe.weighted:
            weighted_batch_norm_backward_cn(
                da, z, work.weight[:rows], tensor(network.params, layer, GAMMA), beta,
                features(work.mean, layer), features(work.rstd, layer), slope, recipe.exact,
                first, last, dz, tensor(network.grads, layer, GAMMA), dbeta,
            )  # fmt: skip
        elif layer[NORMALIZED]:
            batch_norm_backward_cn(
                as_batch(da), as_batch(z), tensor(network.params, layer, GAMMA), beta,
                features(work.mean, layer), features(work.rstd, layer), slope, recipe.exact,
                first, last, as_batch(dz), tensor(network.grads, layer, GAMMA), dbeta,
            )  # fmt: skip
        else:
            bias_activation_backward_cn(da, z, beta, slope, first, last, dz, dbeta)
        mark(member.log, BACKWARD + place)
        if index > 0:
            previous = network.layers[index - 1]
            pack_rows(dz, work.dz_panels[index % 2], first, last)
            mark(member.log, PACK_GRADIENT + place)
            panels = work.at_panels[previous[PADDED_UNIT] * rows :]
            dweight = matrix(network.grads, layer)
            multiply(strided(dz), panels, rows, dweight, first, last)
            mark(member.log, WEIGHT_GRADIENT + place)
        if index > 0 or not recipe.keeps_rows:
            barrier(member)
            mark(member.log, WAIT + place)
    multiply_by_data(network, work, samples, order, recipe.keeps_rows, member)
    barrier(member)
    mark(member.log, WAIT)


@njit_inlined
def update(network, recipe, lr, step, member):
    """One step of the optimizer over all parameters; `step` counts from 1.

    A member updates what belongs to its features, and goes on to the next step if it keeps those of
    the first layer, too: other weights are not looked at by others before another barrier.
    """
    clip = clip_factor(network.grads, recipe.max_norm)
    mark(member.log, CLIP)
    for index in range(network.layers.shape[0]):
        layer = network.layers[index]
        first, last = share_rows(layer[N_OUT], member)
        for column in (WEIGHT, GAMMA, BETA):
            if column != GAMMA or layer[NORMALIZED]:
                start, size = layer[column], layer[N_IN] if column == WEIGHT else 1
                decays = column == WEIGHT or recipe.decay_vectors
                decay = recipe.weight_decay if decays else 0.0
                update_part(
                    network, recipe, clip, lr, decay, step,
                    start + first * size, start + last * size,
                )  # fmt: skip
        mark(member.log, UPDATE + KINDS * index)
    if not recipe.keeps_rows:
        barrier(member)
        mark(member.log, WAIT)


@njit_strict
def update_part(network, recipe, clip, lr, decay, step, first, last):
    """One step of the optimizer on parameters first to last of the flat buffers."""
    params, grads, m, v = network.params, network.grads, network.m, network.v
    if recipe.optimizer == SGD:
        sgd(params, grads, m, clip, lr, recipe.beta1, recipe.nesterov, decay, first, last)
    elif recipe.optimizer == RMSPROP:
        rmsprop(params, grads, v, clip, lr, recipe.beta2, recipe.optimizer_eps, decay, first, last)
    else:
        adam(
            params, grads, m, v, clip, lr, recipe.beta1, recipe.beta2, recipe.optimizer_eps,
            1.0 - recipe.beta1**step, 1.0 - recipe.beta2**step,
            decay, recipe.optimizer == ADAMW, first, last,
        )  # fmt: skip


@njit
def gather_targets(targets, order, first, last, out):
    """Copy the targets of minibatch rows first to last, transposed: out (outputs, rows)."""
    for r in range(first, last):
        target = targets[row_at(order, r, targets.shape[0])]
        for k in range(target.size):
            out[k, r] = target[k]


@njit_inlined
def loss_gradient(network, recipe, work, samples, order, member):
    """Mean loss of the minibatch and its hits; the gradient of the logits goes to work.da."""
    rows = order.size
    layer, last_place = network.layers[-1], KINDS * (network.layers.shape[0] - 1)
    logits = view(work.a, 0, (layer[N_OUT], rows))
    dlogits = view(work.da, 0, logits.shape)
    scratch = view(work.loss, 0, (3, rows))
    parts = whole(rows, PART_ROWS)
    first, last = share(parts, member)
    for part in range(first, last):
        start, stop = part * PART_ROWS, min((part + 1) * PART_ROWS, rows)
        if recipe.loss == SOFTMAX:
            for r in range(start, stop):
                work.labels[r] = samples.labels[row_at(order, r, samples.labels.size)]
            work.hits[part] = count_correct_cn(logits, work.labels, start, stop, scratch)
            work.partial[part] = softmax_cross_entropy_cn(
                logits, work.labels, work.weight, recipe.smoothing, start, stop, scratch, dlogits
            )
        else:
            gather_targets(samples.targets, order, start, stop, dlogits)
            if recipe.loss == SIGMOID:
                work.hits[part] = count_agreeing_cn(logits, dlogits, start, stop, scratch)
                work.partial[part] = sigmoid_cross_entropy_cn(
                    logits, work.weight, recipe.smoothing, start, stop, dlogits
                )
            else:
                work.hits[part] = 0
                work.partial[part] = squared_error_cn(logits, work.weight, start, stop, dlogits)
    mark(member.log, LOSS + last_place)
    barrier(member)
    mark(member.log, WAIT + last_place)
    loss, correct = 0.0, 0
    for part in range(parts):
        loss += work.partial[part]
        correct += work.hits[part]
    return loss, correct


@njit_strict
def train_steps(
    network,
    recipe,
    work,
    samples,
    order,  # (M,) row numbers, minibatch after minibatch
    bounds,  # (S + 1,) minibatch s is order[bounds[s] : bounds[s + 1]]
    lrs,  # (S,) learning rate of each step
    steps,  # (1,) int64: optimizer steps done, before this call and, as it goes on, in it
    member,  # of the team that runs this call
    losses,  # out (S,) mean loss of each minibatch
    correct,  # out (S,) its correctly classified samples
):
    """Train S steps: forward, loss, backward, update.

    A step has no loss, but a NaN, where the loss or a variance is no number of the network's dtype.
    """
    mode = flush_denormals()
    number = work.var.dtype.type
    first_step = steps[0]  # nobody counts before all have passed the first barrier
    for s in range(lrs.size):
        batch = order[bounds[s] : bounds[s + 1]]
        step = first_step + s + 1
        mark(member.log, BEGIN)
        forward(network, recipe, work, samples, batch, step, member)
        loss, hits = loss_gradient(network, recipe, work, samples, batch, member)
        if member.rank == 0:
            is_number = is_finite(work.var) and number(loss) < math.inf
            losses[s] = loss if is_number else math.nan
            correct[s] = hits
        if recipe.learns:
            backward(network, recipe, work, samples, batch, step, member)
            update(network, recipe, lrs[s], step, member)
            if member.rank == 0:
                steps[0] = step
        else:
            barrier(member)
    mark(member.log, BEGIN)
    restore_denormals(mode)


@njit_strict
def infer_logits(
    network,
    recipe,
    work,  # of this member alone
    samples,  # labels and weights are not looked at
    rows,  # samples at a time
    member,
    logits,  # out (N, classes)
):
    """Logits of this member's share of the samples, with the running statistics."""
    mode = flush_denormals()
    layers = network.layers
    one = alone_in(member)
    first_part, last_part = share(whole(samples.x.shape[0], rows), member)
    for part in range(first_part, last_part):
        first = part * rows
        count = min(rows, samples.x.shape[0] - first)
        width = panel_width(work.z)
        padded = whole(count, width) * width
        for r in range(count):
            work.labels[r] = first + r
        multiply_data(network, work, samples, work.labels[:count], False, one)
        for index in range(layers.shape[0]):
            layer = layers[index]
            z = units(work.z, layer, count)
            a = view(work.a, 0, z.shape)
            beta = tensor(network.params, layer, BETA)
            slope = layer_slope(network, recipe, index)
            if index > 0:
                panels = work.a_panels[layers[index - 1][UNIT] * padded :]
                weight = strided(matrix(network.params, layer))
                multiply(weight, panels, layer[N_IN], z, 0, layer[N_OUT])
            if layer[NORMALIZED]:
                batch_norm_inference_cn(
                    as_batch(z), features(network.running_mean, layer),
                    features(network.running_var, layer), tensor(network.params, layer, GAMMA),
                    beta, recipe.eps, slope, 0, layer[N_OUT], as_batch(a),
                )  # fmt: skip
            else:
                bias_activation_forward_cn(z, beta, slope, 0, layer[N_OUT], a)
            if index < layers.shape[0] - 1:
                if recipe.curve != NONE:
                    curve_forward(recipe.curve, view(a, 0, (a.size,)))
                pack_rows(a, work.a_panels[layer[UNIT] * padded :], 0, layer[N_OUT])
        result = view(work.a, 0, (layers[-1][N_OUT], count))
        for i in range(count):
            for k in range(result.shape[0]):
                logits[first + i, k] = result[k, i]
    restore_denormals(mode)
