"""Gather the weights and targets of a minibatch, and compute its loss and gradient."""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_inlined
from fastbn.jit.intrinsics import mark, view
from fastbn.kernels.losses import (
    count_agreeing_cn,
    count_correct_cn,
    sigmoid_cross_entropy_cn,
    softmax_cross_entropy_cn,
    squared_error_cn,
)
from fastbn.kernels.network_arrays import KINDS, LOSS, N_OUT, WAIT, whole
from fastbn.kernels.preprocessing import row_at
from fastbn.options import Loss, code
from fastbn.parallel.team import barrier, share

SOFTMAX, SIGMOID = code(Loss, "softmax_cross_entropy"), code(Loss, "sigmoid_cross_entropy")

# A member computes the loss of this many samples at a time.
PART_ROWS = 512


@njit_inlined
def gather_weights(samples, order, work, first, last):
    """Copy the weights of rows first to last, scaled so that those of the minibatch sum to 1."""
    number = work.weight.dtype.type
    weights, n = samples.weight, samples.weight.size
    total = 0.0
    for r in range(order.size):
        total += weights[row_at(order, r, n)] if n else 1.0
    for r in range(first, last):
        weight = weights[row_at(order, r, n)] if n else number(1.0)
        work.weight[r] = number(weight / total) if total > 0 else number(0.0)


@njit
def gather_targets(targets, order, first, last, out):
    """Copy the targets of minibatch rows first to last, transposed: out (outputs, rows)."""
    for r in range(first, last):
        target = targets[row_at(order, r, targets.shape[0])]
        for k in range(target.size):
            out[k, r] = target[k]


@njit_inlined
def loss_gradient(network, recipe, work, samples, order, member):
    """Return the mean loss and the hits of the minibatch; write the logits' gradient to work.da."""
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
