"""Compute the logits of many samples in one call, with the running statistics.

Here a row is a sample, not a feature as in training. So the samples are the left operand of the
first product, and each layer's outputs that of the next one: nothing is packed or transposed
between layers. The right operands are the transposed weights, packed once for many calls, or in
the same call if Python code may change the parameters meanwhile.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import at_address, flush_denormals, restore_denormals, strided, view
from fastbn.kernels.batchnorm_formulas import inference_scale
from fastbn.kernels.batchnorm_nc_rows import row_affine_activation
from fastbn.kernels.elementwise import NONE, elementwise_forward
from fastbn.kernels.gemm import (
    multiply_panels,
    multiply_row,
    pack_panels_of_transpose,
    panel_width,
    whole,
)
from fastbn.kernels.network_arrays import (
    BETA,
    GAMMA,
    N_IN,
    N_OUT,
    NORMALIZED,
    UNIT,
    Inputs,
    PredictionWorkspace,
    Predictor,
    features,
    layer_slope,
    matrix,
    share_rows,
    tensor,
)
from fastbn.kernels.preprocessing import gather_rows
from fastbn.parallel.team import Member, alone_in, barrier, gather_team, leave_team, share


@njit_inlined
def packed_size(layer, width):
    """Return the number of elements of a layer's packed weight."""
    return layer[N_IN] * whole(layer[N_OUT], width) * width


@njit
def pack_weights(layers, params, packed):
    """Pack the transposed weights of all layers, one after the other."""
    start, width = 0, panel_width(params)
    for index in range(layers.shape[0]):
        layer = layers[index]
        weight, end = matrix(params, layer), start + packed_size(layer, width)
        pack_panels_of_transpose(weight, 0, layer[N_OUT], packed[start:end], 0, layer[N_OUT])
        start = end


@njit_strict
def prepare_affine(network, work):
    """Compute shift and scale of each unit: a = act((z - shift) * scale + beta)."""
    number = network.params.dtype.type
    for index in range(network.layers.shape[0]):
        layer = network.layers[index]
        shift, scale = features(work.shift, layer), features(work.scale, layer)
        if layer[NORMALIZED]:
            gamma = tensor(network.params, layer, GAMMA)
            mean = features(network.running_mean, layer)
            var = features(network.running_var, layer)
            for j in range(shift.size):
                shift[j] = mean[j]
                scale[j] = number(inference_scale(gamma[j], var[j], network.eps))
        else:
            for j in range(shift.size):
                shift[j] = number(0)
                scale[j] = number(1)


@njit_inlined
def scaled_rows(network, work, samples, start, stop):
    """Return samples start to stop as the left operand of a product: x itself, if it can be.

    Members that share units write the same numbers.
    """
    inputs, count = samples.x.shape[1], stop - start
    if samples.is_ready:
        x = at_address(network.params, samples.x.ctypes.data, samples.x.size)
        return view(x, start * inputs, (count, inputs))
    x = view(work.x, 0, (count, inputs))
    for r in range(count):
        work.order[r] = start + r
    gather_rows(samples.x, work.order, 0, count, samples.center, samples.scale, x)
    return x


@njit_strict
def infer_rows(network, work, samples, start, stop, team, logits):
    """Compute the logits of samples start to stop; the members share the units of each layer."""
    count, width = stop - start, panel_width(network.params)
    x = scaled_rows(network, work, samples, start, stop)
    place, n_layers = 0, network.layers.shape[0]
    for index in range(n_layers):
        layer = network.layers[index]
        outputs, end = layer[N_OUT], place + packed_size(layer, width)
        if index < n_layers - 1:
            a = view(work.a[index % 2], 0, (count, outputs))
        else:
            a = view(logits, start * outputs, (count, outputs))
        first, last = share(whole(outputs, width), team)
        if count == 1 and team.size == 1:
            multiply_row(x, network.packed[place:end], a)
        else:
            multiply_panels(strided(x), network.packed[place:end], a, first, last)
        j, units = first * width, min(last * width, outputs) - first * width
        shift = view(work.shift, layer[UNIT] + j, (units,))
        scale = view(work.scale, layer[UNIT] + j, (units,))
        beta = view(network.params, layer[BETA] + j, (units,))
        slope = layer_slope(network, network.slope, index)
        for r in range(count):
            row = view(a, r * outputs + j, (units,))
            row_affine_activation(row, shift, scale, beta, slope, row)
            if network.elementwise != NONE and index < n_layers - 1:
                elementwise_forward(network.elementwise, row)
        barrier(team)
        x, place = a, end


@njit_strict
def infer_logits(
    network,  # Predictor
    work,  # PredictionWorkspace of this member only, or with `shares_units` of all
    samples,  # Inputs
    rows,  # samples at a time
    shares_units,
    packs,  # whether to pack the weights first, into `network.packed`
    member,
    logits,  # out (N, classes)
):
    """Compute this member's share of the logits, with the running statistics.

    Members share the samples, or with `shares_units` the units of each layer, for all samples at
    once. All tuples may be plain ones, as for `train_steps`.
    """
    network, work = Predictor(*network), PredictionWorkspace(*work)
    samples, member = Inputs(*samples), Member(*member)
    if not gather_team(member):
        return  # pragma: no cover (teams are of compiled code)
    mode = flush_denormals()
    if packs and member.rank == 0:
        pack_weights(network.layers, network.params, network.packed)
    if member.rank == 0 or not shares_units:
        prepare_affine(network, work)
    if packs or shares_units:
        barrier(member)
    if shares_units:
        infer_rows(network, work, samples, 0, samples.x.shape[0], member, logits)
    else:
        first, last = share_rows(samples.x.shape[0], member)
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            infer_rows(network, work, samples, start, stop, alone_in(member), logits)
    restore_denormals(mode)
    leave_team(member)
