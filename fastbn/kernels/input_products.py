"""Matrix products of the first layer, which gather, scale and multiply the data panel by panel."""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_inlined
from fastbn.jit.intrinsics import TILE_ROWS, mark, strided, view
from fastbn.kernels.gemm import (
    DEPTH,
    multiply_slab,
    pack_panels_of_transpose,
    panel_width,
    right_slab,
    whole,
)
from fastbn.kernels.network_arrays import (
    GATHER,
    GATHER_AGAIN,
    N_IN,
    N_OUT,
    PRODUCT,
    WEIGHT_GRADIENT,
    matrix,
    units,
)
from fastbn.kernels.preprocessing import gather_panels, gather_rows
from fastbn.kernels.reductions import all_below
from fastbn.parallel.team import share

# A large weight is multiplied with this many samples at once; a small one stays in cache anyway.
SAMPLES, LARGE = 128, 1 << 17


@njit_inlined
def share_tasks(rows, columns, width, kept, member):
    """Cut a product of the data into tasks; each is a group of rows by a panel of columns.

    With `kept`, a member computes its own rows for all panels. Otherwise it computes some of the
    panels, and rows are cut into groups only if there are few panels. Return this member's first
    and last task, and the number of groups.
    """
    panels = whole(columns, width)
    tiles = whole(rows, TILE_ROWS)
    groups = 1 if panels % member.size == 0 else min(tiles, 1 + 4 * member.size // panels)
    first, last = share(panels * groups, member)
    return (0, panels, 1) if kept else (first, last, groups)


@njit
def task_place(task, groups, rows, kept, member):
    """Return panel, first row and last row of a task of `share_tasks`."""
    tiles = whole(rows, TILE_ROWS)
    part, parts = (member.rank, member.size) if kept else (task % groups, groups)
    first, last = tiles * part // parts, tiles * (part + 1) // parts
    return task // groups, first * TILE_ROWS, min(last * TILE_ROWS, rows)


@njit_inlined
def multiply_data(network, work, samples, order, kept, member):
    """Compute z of the first layer: its weight times the transposed minibatch.

    A panel of samples is gathered, scaled, transposed and multiplied while it is in cache.
    """
    layer = network.layers[0]
    rows, inputs = order.size, layer[N_IN]
    width = panel_width(work.z)
    z = units(work.z, layer, rows)
    weight = strided(matrix(network.params, layer))
    gathered = work.x[member.rank, : width * inputs]
    panels = work.x[member.rank, width * inputs :]
    first, last, groups = share_tasks(layer[N_OUT], rows, width, kept, member)
    is_large = groups == 1 and layer[N_OUT] * inputs >= LARGE
    present, at_once = -1, SAMPLES // width if is_large else 1
    for task in range(first, last, at_once):
        p, i, stop = task_place(task, groups, layer[N_OUT], kept, member)
        j = p * width
        columns = min(min(at_once, last - task) * width, rows - j)
        if p != present:
            for start in range(0, columns, width):
                count = min(width, columns - start)
                x = view(gathered, 0, (count, inputs))
                gather_rows(
                    samples.x, order, j + start, j + start + count, samples.center, samples.scale, x
                )
                pack_panels_of_transpose(x, 0, count, panels, start, columns)
            present = p
            mark(member.log, GATHER)
        for k in range(0, inputs, DEPTH):
            right = right_slab(panels, columns, k, min(DEPTH, inputs - k))
            multiply_slab(weight, k, right, z, i, stop, j, 1 if k > 0 else 0)
        mark(member.log, PRODUCT)


@njit
def block_is_below(array, first, last, j_first, j_last, limit):
    """Return whether all magnitudes in a block of rows and columns are below a limit."""
    columns = array.shape[1]
    if j_last - j_first == columns:  # contiguous
        return all_below(view(array, first * columns, ((last - first) * columns,)), limit)
    below = True
    for i in range(first, last):
        below &= all_below(array[i, j_first:j_last], limit)
    return below


@njit_inlined
def multiply_by_data(network, recipe, work, samples, order, member):
    """Compute the gradient of the first layer's weight: dz times the minibatch, gathered again."""
    layer, kept = network.layers[0], recipe.gathers_whole_batch
    rows, inputs = order.size, layer[N_IN]
    width = panel_width(work.z)
    dz = strided(view(work.dz, 0, (layer[N_OUT], rows)))
    dweight = matrix(network.grads, layer)
    first, last, groups = share_tasks(layer[N_OUT], inputs, width, kept, member)
    panels, at_once = work.x[member.rank], max(last - first, 1) if groups == 1 else 1
    j_first = first // groups * width
    j_last = min(((last - 1) // groups + 1) * width, inputs)
    for k in range(0, rows if first < last else 0, DEPTH):
        part = min(DEPTH, rows - k)
        gather_panels(
            samples.x, order, k, k + part, samples.center, samples.scale, j_first, j_last, panels
        )
        mark(member.log, GATHER_AGAIN)
        right = right_slab(panels, j_last - j_first, 0, part)
        for task in range(first, last, at_once):
            p, i, stop = task_place(task, groups, layer[N_OUT], kept, member)
            q, j = p - j_first // width, p * width
            multiply_slab(dz, k, right[q : q + at_once], dweight, i, stop, j, 1 if k > 0 else 0)
        mark(member.log, WEIGHT_GRADIENT)


@njit_inlined
def data_gradient_is_below(network, recipe, width, member):
    """Return whether this member's results of `multiply_by_data` are below the limit."""
    layer, kept = network.layers[0], recipe.gathers_whole_batch
    inputs, dweight, below = layer[N_IN], matrix(network.grads, layer), True
    first, last, groups = share_tasks(layer[N_OUT], inputs, width, kept, member)
    together = max(last - first, 1) if groups == 1 else 1  # panels checked at once
    for task in range(first, last, together):
        p, i, stop = task_place(task, groups, layer[N_OUT], kept, member)
        j, j_stop = p * width, min((p + together) * width, inputs)
        below &= block_is_below(dweight, i, stop, j, j_stop, recipe.limit)
    return below
