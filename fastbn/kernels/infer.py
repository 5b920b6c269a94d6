"""Compute the logits of many samples in one call, with the running statistics."""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import flush_denormals, restore_denormals, strided, view
from fastbn.kernels.activations import bias_activation_forward_cn
from fastbn.kernels.batchnorm_cn import batch_norm_inference_cn
from fastbn.kernels.elementwise import NONE, elementwise_forward
from fastbn.kernels.gemm import (
    multiply,
    multiply_row,
    multiply_vector,
    pack_panels,
    pack_panels_of_transpose,
    panel_width,
    whole,
)
from fastbn.kernels.input_products import multiply_data
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
    as_batch,
    features,
    layer_slope,
    matrix,
    share_rows,
    tensor,
    units,
)
from fastbn.kernels.preprocessing import gather_rows
from fastbn.parallel.team import Member, alone_in, barrier, gather_team, share

# A single sample is multiplied as a row, if the weights are packed or a panel has this many
# columns. For narrower panels packing costs as much as it saves.
WIDE_PANEL = 16


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


@njit_inlined
def multiply_sample(network, layer, start, x, panel, z):
    """Compute z (N_OUT,) of a layer for one sample; its packed weight begins at `start`."""
    if network.packed.size > 0:
        row, out = view(x, 0, (1, x.size)), view(z, 0, (1, z.size))
        multiply_row(row, network.packed[start:], out)
    else:
        multiply_vector(matrix(network.params, layer), x, panel, z)


@njit_strict
def infer_logits(
    network,  # Predictor
    work,  # PredictionWorkspace of this member only, or with `shares_units` of all
    samples,  # Inputs
    rows,  # samples at a time
    shares_units,
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
    layers = network.layers
    parts = whole(samples.x.shape[0], rows)
    first_part, last_part = (0, parts) if shares_units else share(parts, member)
    team = member if shares_units else alone_in(member)
    for part in range(first_part, last_part):
        first = part * rows
        count = min(rows, samples.x.shape[0] - first)
        width = panel_width(work.z)
        is_vector = count == 1 and (width >= WIDE_PANEL or network.packed.size > 0)
        is_vector &= not shares_units
        padded = whole(count, width) * width
        for r in range(count):
            work.order[r] = first + r
        start = 0
        if is_vector:
            gather_rows(
                samples.x, work.order, 0, 1, samples.center, samples.scale,
                view(work.a, 0, (1, layers[0, N_IN])),
            )  # fmt: skip
        else:
            multiply_data(network, work, samples, work.order[:count], shares_units, team)
        for index in range(layers.shape[0]):
            layer = layers[index]
            i, stop = share_rows(layer[N_OUT], team)
            z = units(work.z, layer, count)
            a = view(work.a, 0, z.shape)
            beta = tensor(network.params, layer, BETA)
            slope = layer_slope(network, network.slope, index)
            if is_vector:
                x = view(work.a, 0, (layer[N_IN],))
                multiply_sample(network, layer, start, x, work.x[0], view(z, 0, (z.size,)))
                start += packed_size(layer, width)
            elif index > 0:
                panels = work.a_panels[layers[index - 1][UNIT] * padded :]
                weight = strided(matrix(network.params, layer))
                multiply(weight, panels, layer[N_IN], z, i, stop)
            if layer[NORMALIZED]:
                batch_norm_inference_cn(
                    as_batch(z), features(network.running_mean, layer),
                    features(network.running_var, layer), tensor(network.params, layer, GAMMA),
                    beta, network.eps, slope, i, stop, as_batch(a),
                )  # fmt: skip
            else:
                bias_activation_forward_cn(z, beta, slope, i, stop, a)
            if index < layers.shape[0] - 1:
                if network.elementwise != NONE:
                    own = view(a, i * count, ((stop - i) * count,))
                    elementwise_forward(network.elementwise, own)
                if not is_vector:
                    pack_panels(a, work.a_panels[layer[UNIT] * padded :], i, stop)
                barrier(team)
        result = view(work.a, 0, (layers[-1][N_OUT], count))
        i, stop = share_rows(layers[-1][N_OUT], team)
        for r in range(count):
            for k in range(i, stop):
                logits[first + r, k] = result[k, r]
    restore_denormals(mode)
