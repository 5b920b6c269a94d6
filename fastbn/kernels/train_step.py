"""Many training steps in one call: forward, loss, backward, update.

All members of a team run the same call. Of each phase a member does its share: some features of a
layer, some samples of the loss, some parameters of the update. What a feature needs of its row
follows the product that made it, while the row is in cache, and a barrier stands only where a
member needs what others have made. No sum crosses a share, so the bits do not depend on shares.
"""

from __future__ import annotations

import math

from fastbn.jit.compiler import njit_inlined, njit_strict
from fastbn.jit.intrinsics import flush_denormals, mark, restore_denormals, strided, view
from fastbn.kernels.activations import (
    bias_activation_backward_cn,
    bias_activation_forward_cn,
    dropout,
    dropout_key,
)
from fastbn.kernels.batchnorm_cn import (
    batch_norm_backward_cn,
    batch_norm_forward_cn,
    update_running_statistics,
)
from fastbn.kernels.batchnorm_weighted import (
    weighted_batch_norm_backward_cn,
    weighted_batch_norm_forward_cn,
)
from fastbn.kernels.gemm import multiply, pack_columns, pack_rows, panel_width
from fastbn.kernels.input_products import multiply_by_data, multiply_data
from fastbn.kernels.minibatch_loss import gather_weights, loss_gradient
from fastbn.kernels.network_arrays import (
    BACKWARD,
    BEGIN,
    BETA,
    DROPOUT,
    FORWARD,
    GAMMA,
    INPUT_GRADIENT,
    KINDS,
    N_IN,
    N_OUT,
    NORMALIZED,
    PACK,
    PACK_GRADIENT,
    PADDED_UNIT,
    PRODUCT,
    UNIT,
    WAIT,
    WEIGHT_GRADIENT,
    as_batch,
    features,
    layer_slope,
    matrix,
    share_rows,
    tensor,
    units,
    whole,
)
from fastbn.kernels.reductions import is_finite, row_sum
from fastbn.kernels.saturating import NONE, curve_backward, curve_forward
from fastbn.kernels.update import update
from fastbn.parallel.team import barrier, share


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
