"""Many training steps in one call: forward, loss, backward, update.

All members of a team run this call. In each phase a member computes its share: some features of a
layer, some samples of the loss, some parameters of the update. The member that computes the row of
a feature by a matrix product also does all further work on this row, while it is in cache. Members
wait at a barrier only if they need results of others. No sum is split among members, so the bits do
not depend on the number of members.
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
from fastbn.kernels.batchnorm_cn import batch_norm_backward_cn, batch_norm_forward_cn
from fastbn.kernels.batchnorm_formulas import Norm
from fastbn.kernels.batchnorm_weighted import (
    weighted_batch_norm_backward_cn,
    weighted_batch_norm_forward_cn,
)
from fastbn.kernels.elementwise import NONE, elementwise_backward, elementwise_forward
from fastbn.kernels.gemm import (
    multiply,
    pack_panels,
    pack_panels_of_transpose,
    panel_width,
    whole,
)
from fastbn.kernels.input_products import (
    data_gradient_is_below,
    multiply_by_data,
    multiply_data,
)
from fastbn.kernels.minibatch_loss import gather_weights, loss_gradient
from fastbn.kernels.network_arrays import (
    BACKWARD,
    BEGIN,
    BETA,
    CLIP,
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
    WEIGHT,
    WEIGHT_GRADIENT,
    Network,
    Recipe,
    Samples,
    Workspace,
    as_batch,
    features,
    layer_slope,
    matrix,
    share_rows,
    tensor,
    units,
)
from fastbn.kernels.optimizers import clip_factor
from fastbn.kernels.reductions import all_below
from fastbn.kernels.update import update
from fastbn.parallel.team import Member, barrier, gather_team, leave_team, share


@njit_inlined
def forward(network, recipe, work, samples, order, step, member):
    """Compute the activations of all layers in training, and the statistics of the batch."""
    rows = order.size
    width = panel_width(work.z)
    padded = whole(rows, width) * width
    first, last = share(rows, member)
    gather_weights(samples, order, work, first, last)
    multiply_data(network, work, samples, order, recipe.gathers_whole_batch, member)
    if not recipe.gathers_whole_batch:
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
            if recipe.elementwise != NONE:
                elementwise_forward(recipe.elementwise, values)
                mark(member.log, FORWARD + place)
            if recipe.dropout > 0:
                key = dropout_key(recipe.seed, step, index)
                dropout(values, first * rows, recipe.dropout, key)
                mark(member.log, DROPOUT + place)
            pack_panels(a, work.a_panels[layer[UNIT] * padded :], first, last)
            panels = work.at_panels[layer[PADDED_UNIT] * rows :]
            pack_panels_of_transpose(a, first, last, panels, first, layer[N_OUT])
            mark(member.log, PACK + place)
        barrier(member)
        mark(member.log, WAIT + place)


@njit_inlined
def norm_of(network, work, layer):
    """Return the batch statistics, gamma and beta of a layer."""
    return Norm(
        features(work.mean, layer),
        features(work.rstd, layer),
        tensor(network.params, layer, GAMMA),
        tensor(network.params, layer, BETA),
    )


@njit_inlined
def activate(network, recipe, work, index, z, first, last, a):
    """Compute statistics, normalization and activation of features first to last of a layer."""
    layer = network.layers[index]
    beta = tensor(network.params, layer, BETA)
    slope = layer_slope(network, recipe.slope, index)
    if not layer[NORMALIZED]:
        bias_activation_forward_cn(z, beta, slope, first, last, a)
        return
    norm, var, rows = norm_of(network, work, layer), features(work.var, layer), z.shape[1]
    if recipe.weighted:
        weight = work.weight[:rows]
        weighted_batch_norm_forward_cn(z, weight, norm, recipe.eps, slope, first, last, a, var)
    else:
        batch_norm_forward_cn(as_batch(z), norm, recipe.eps, slope, first, last, as_batch(a), var)


@njit_inlined
def differentiate_elementwise(network, recipe, work, index, z, first, last, da):
    """Multiply da of features first to last by the derivative of the elementwise activation."""
    layer = network.layers[index]
    beta, number = tensor(network.params, layer, BETA), z.dtype.type
    for c in range(first, last):
        shift, scale = number(0), number(1)
        if layer[NORMALIZED]:
            shift = features(work.mean, layer)[c]
            scale = tensor(network.params, layer, GAMMA)[c] * features(work.rstd, layer)[c]
        elementwise_backward(recipe.elementwise, z[c], shift, scale, beta[c], da[c])


@njit_inlined
def backward(network, recipe, work, samples, order, step, member):
    """Compute all gradients; work.da has the gradient of the last layer's output.

    Return whether all of them are below the limit. Each member checks the gradients that it has
    computed before it waits at the last barrier.
    """
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
            if recipe.elementwise != NONE:
                differentiate_elementwise(network, recipe, work, index, z, first, last, da)
        beta, dbeta = tensor(network.params, layer, BETA), tensor(network.grads, layer, BETA)
        slope = layer_slope(network, recipe.slope, index)
        if layer[NORMALIZED] and recipe.weighted:
            weighted_batch_norm_backward_cn(
                da, z, work.weight[:rows], norm_of(network, work, layer), slope, recipe.exact,
                first, last, dz, tensor(network.grads, layer, GAMMA), dbeta,
            )  # fmt: skip
        elif layer[NORMALIZED]:
            batch_norm_backward_cn(
                as_batch(da), as_batch(z), norm_of(network, work, layer), slope, recipe.exact,
                first, last, as_batch(dz), tensor(network.grads, layer, GAMMA), dbeta,
            )  # fmt: skip
        else:
            bias_activation_backward_cn(da, z, beta, slope, first, last, dz, dbeta)
        mark(member.log, BACKWARD + place)
        if index > 0:
            previous = network.layers[index - 1]
            pack_panels(dz, work.dz_panels[index % 2], first, last)
            mark(member.log, PACK_GRADIENT + place)
            panels = work.at_panels[previous[PADDED_UNIT] * rows :]
            multiply(strided(dz), panels, rows, matrix(network.grads, layer), first, last)
            mark(member.log, WEIGHT_GRADIENT + place)
        if index > 0 or not recipe.gathers_whole_batch:
            barrier(member)
            mark(member.log, WAIT + place)
    multiply_by_data(network, recipe, work, samples, order, member)
    below = gradients_are_below(network, recipe, panel_width(work.z), member)
    work.overflows[member.rank] = not below
    mark(member.log, CLIP)
    barrier(member)
    mark(member.log, WAIT)
    for rank in range(member.size):
        below &= work.overflows[rank] == 0
    return below


@njit_inlined
def gradients_are_below(network, recipe, width, member):
    """Return whether the gradients that this member has computed are below the limit."""
    if member.size == 1 and all_below(network.grads, recipe.limit):  # the gaps are zero
        return True
    below = data_gradient_is_below(network, recipe, width, member)
    for index in range(network.layers.shape[0]):
        layer = network.layers[index]
        first, last = share_rows(layer[N_OUT], member)
        for column in (WEIGHT, GAMMA, BETA):
            if (column != WEIGHT or index > 0) and (column != GAMMA or layer[NORMALIZED]):
                start, size = layer[column], layer[N_IN] if column == WEIGHT else 1
                own = network.grads[start + first * size : start + last * size]
                below &= all_below(own, recipe.limit)
    return below


@njit_strict
def train_steps(
    network,
    recipe,
    work,
    samples,
    plan,  # order (M,) of row numbers, bounds (S + 1,) of minibatches in it, lrs (S,) of the steps
    member,  # the member of the team that runs this call
    counts,  # in and out (1,) int64 each: optimizer steps done, consecutive refused steps
    results,  # out (S,) each: mean loss and number of hits of each minibatch
):
    """Run S training steps: forward, loss, backward and update.

    Minibatch s is order[bounds[s] : bounds[s + 1]]. The loss of a refused step is NaN, and results
    of steps that are not reached are not changed. All tuples may be plain ones, and those from
    Python are: numba takes three times as long to unpack a named tuple.

    A step is refused if a variance, the loss or the norm of the gradient is not finite, or if an
    entry of the gradient reaches the limit. All members read the same numbers and come to the same
    decision before any of them updates, so a refused step changes no parameter, moment, running
    statistic or step counter. Then the call goes on with the next minibatch, unless more than
    `most_refused` consecutive steps have been refused.
    """
    network, recipe, work = Network(*network), Recipe(*recipe), Workspace(*work)
    samples, member = Samples(*samples), Member(*member)
    if not gather_team(member):
        return  # pragma: no cover (teams are of compiled code)
    mode = flush_denormals()
    number = work.var.dtype.type
    (order, bounds, lrs), (steps, refused), (losses, correct) = plan, counts, results
    step, in_a_row = steps[0], refused[0]  # member 0 changes them only after a barrier
    for s in range(lrs.size):
        batch = order[bounds[s] : bounds[s + 1]]
        mark(member.log, BEGIN)
        forward(network, recipe, work, samples, batch, step + 1, member)
        loss, hits = loss_gradient(network, recipe, work, samples, batch, member)
        is_good, clip = all_below(work.var, number(math.inf)) and number(loss) < math.inf, 1.0
        if is_good:
            is_good = backward(network, recipe, work, samples, batch, step + 1, member)
            clip = clip_factor(network.grads, recipe.max_norm)
            mark(member.log, CLIP)
        if is_good and clip > 0.0:
            step, in_a_row = step + 1, 0
            update(network, recipe, work, clip, lrs[s], step, batch.size, member)
        else:
            loss, hits, in_a_row = math.nan, 0, in_a_row + 1
            barrier(member)  # the next step overwrites arrays that others may still be reading
        if member.rank == 0:
            losses[s], correct[s] = loss, hits
            steps[0], refused[0] = step, in_a_row
        if in_a_row > recipe.most_refused:
            break
    mark(member.log, BEGIN)
    restore_denormals(mode)
    leave_team(member)
