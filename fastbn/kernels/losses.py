"""Losses with their gradients (softmax, sigmoid, squared error), and counts of hits.

Softmax cross-entropy of one sample with logits z over C classes, label k, label smoothing s
(Szegedy et al. 2016, arXiv 1512.00567, section 7) and weight w, where the weights of a batch add up
to 1:

    p = exp(z - max z) / sum(exp(z - max z))         q = (1 - s) * onehot(k) + s / C
    loss = -w * sum(q * log p)                       dz = w * (p - q)

Since the maximum is subtracted, every exponential is in [0, 1], and finite logits do not overflow.

Sigmoid cross-entropy, for yes-or-no outputs z with targets t in [0, 1], and the squared error of
outputs z with targets t:

    loss = w * sum(max(z, 0) - z * t + log(1 + exp(-|z|)))      dz = w * (sigmoid(z) - t)
    loss = w * sum((z - t)^2) / 2                               dz = w * (z - t)

sigmoid(z) = 1 / (1 + exp(-z)); label smoothing replaces t by (1 - s) * t + s / 2.

A label outside the range of classes has no logit: its loss is NaN, and it does not count as a hit.
"""

from __future__ import annotations

import math

import numpy as np

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import exp_of_nonpositive, multiply_add
from fastbn.kernels.reductions import row_sum


@njit_inlined
def is_class(label, classes):
    """Return whether a label is in the range of the classes."""
    return 0 <= label and label < classes


@njit
def centred_sum_of(z, top, factor):
    """Return the sum of factor * (z - top). Terms are scaled one by one, so no sum overflows."""
    total = z.dtype.type(0)
    for k in range(z.size):
        total += factor * (z[k] - top)
    return total


@njit_strict
def softmax_cross_entropy_nc(
    logits,  # (N, C)
    labels,  # (N,) integers in [0, C)
    weight,  # (N,) adding up to 1
    smoothing,  # label smoothing in [0, 1]
    dlogits,  # out (N, C)
):
    """Return the loss of the batch as float64; write its gradient to dlogits."""
    classes = logits.shape[1]
    off = dlogits.dtype.type(smoothing / classes)
    on = dlogits.dtype.type(1.0 - smoothing)
    nan = logits.dtype.type(np.nan)
    loss = 0.0
    for i in range(logits.shape[0]):
        z, d, w = logits[i], dlogits[i], weight[i]
        # phase 1: maximum and sum of logits
        top = z[0]
        for k in range(z.size):
            top = max(top, z[k])
        # phase 2: exponentials
        for k in range(z.size):
            d[k] = exp_of_nonpositive(z[k] - top)
        normalizer = z.dtype.type(row_sum(d))
        # phase 3: loss and gradient
        log_normalizer = math.log(normalizer)
        label = labels[i]
        known = is_class(label, classes)
        hit = z[label] - top if known else nan
        loss += w * (log_normalizer - on * hit)
        if off > 0:  # 0 times a logit of -inf would be a NaN
            loss -= w * centred_sum_of(z, top, off)
        scale, shift = w / normalizer, -w * off
        for k in range(z.size):
            d[k] = multiply_add(d[k], scale, shift)
        if known:
            d[label] -= w * on
    return loss


@njit_strict
def softmax_cross_entropy_cn(
    logits,  # (C, N)
    labels,  # (N,) integers in [0, C)
    weight,  # (N,) adding up to 1
    smoothing,  # label smoothing in [0, 1]
    start,  # samples start to stop
    stop,
    work,  # overwritten (3, N): maximum, normalizer and smoothed sum of the centred logits
    dlogits,  # out (C, N)
):
    """Return the loss of samples start to stop as float64; write its gradient to dlogits."""
    classes = logits.shape[0]
    off = dlogits.dtype.type(smoothing / classes)
    on = dlogits.dtype.type(1.0 - smoothing)
    zero, nan = logits.dtype.type(0), logits.dtype.type(np.nan)
    top, normalizer, centred_sum = work[0, start:stop], work[1, start:stop], work[2, start:stop]
    label, w = labels[start:stop], weight[start:stop]
    # phase 1: maximum over the classes
    z = logits[0, start:stop]
    for i in range(z.size):
        top[i] = z[i]
        normalizer[i] = zero
        centred_sum[i] = zero
    for k in range(1, classes):
        z = logits[k, start:stop]
        for i in range(z.size):
            top[i] = max(top[i], z[i])
    # phase 2: exponentials
    for k in range(classes):
        z, d = logits[k, start:stop], dlogits[k, start:stop]
        for i in range(z.size):
            centred = z[i] - top[i]
            # each term is scaled, so that the sum does not overflow
            centred_sum[i] = multiply_add(off, centred, centred_sum[i])
            d[i] = exp_of_nonpositive(centred)
            normalizer[i] += d[i]
    # phase 3: loss and gradient
    loss = 0.0
    for i in range(top.size):
        k = label[i]
        hit = logits[k, start + i] - top[i] if is_class(k, classes) else nan
        loss += w[i] * (math.log(normalizer[i]) - on * hit)
        if off > 0:  # 0 times a logit of -inf would be a NaN
            loss -= w[i] * centred_sum[i]
        normalizer[i] = w[i] / normalizer[i]
    for k in range(classes):
        d = dlogits[k, start:stop]
        for i in range(d.size):
            d[i] = multiply_add(d[i], normalizer[i], -w[i] * off)
    for i in range(label.size):
        k = label[i]
        if is_class(k, classes):
            dlogits[k, start + i] -= w[i] * on
    return loss


@njit
def sigmoid_loss(
    z,  # (K,) logits of one output
    targets,  # (K,)
    w,  # (K,)
    keep,  # 1 - smoothing
    shift,  # smoothing / 2
):
    """Return the sum of w * (max(z, 0) - z * t + log(1 + exp(-|z|))) as float64."""
    zero = z.dtype.type(0)
    loss = 0.0
    for i in range(z.size):
        target = targets[i] * keep + shift
        e = exp_of_nonpositive(-abs(z[i]))
        loss += w[i] * (max(z[i], zero) - z[i] * target + math.log1p(e))
    return loss


@njit_strict
def sigmoid_cross_entropy_cn(
    logits,  # (C, N)
    weight,  # (N,) adding up to 1
    smoothing,  # label smoothing in [0, 1]
    start,  # samples start to stop
    stop,
    dlogits,  # (C, N): targets in, gradient out
):
    """Return the loss of samples start to stop as float64; overwrite targets with its gradient."""
    number = logits.dtype.type
    zero, one = number(0), number(1)
    keep, shift = number(1.0 - smoothing), number(smoothing / 2)
    w = weight[start:stop]
    loss = 0.0
    for k in range(logits.shape[0]):
        z, d = logits[k, start:stop], dlogits[k, start:stop]
        loss += sigmoid_loss(z, d, w, keep, shift)
        for i in range(z.size):
            target = multiply_add(d[i], keep, shift)
            e = exp_of_nonpositive(-abs(z[i]))
            d[i] = w[i] * ((one if z[i] > zero else e) / (one + e) - target)
    return loss


@njit
def squared_loss(z, targets, w):
    """Return the sum of w * (z - t)^2 for one output, as float64."""
    loss = 0.0
    for i in range(z.size):
        error = z[i] - targets[i]
        loss += np.float64(w[i] * error) * error
    return loss


@njit_strict
def squared_error_cn(
    outputs,  # (C, N)
    weight,  # (N,) adding up to 1
    start,  # samples start to stop
    stop,
    doutputs,  # (C, N): targets in, gradient out
):
    """Return the loss of samples start to stop as float64; overwrite targets with its gradient."""
    w = weight[start:stop]
    loss = 0.0
    for k in range(outputs.shape[0]):
        z, d = outputs[k, start:stop], doutputs[k, start:stop]
        loss += squared_loss(z, d, w)
        for i in range(z.size):
            d[i] = w[i] * (z[i] - d[i])
    return loss / 2


@njit_strict
def count_correct_cn(
    logits,  # (C, N)
    labels,  # (N,) integers in [0, C)
    start,  # samples start to stop
    stop,
    work,  # overwritten (2, N)
):
    """Count the samples whose label has the largest logit, the first in a tie, as in `argmax`."""
    one, zero, nan = logits.dtype.type(1), logits.dtype.type(0), logits.dtype.type(np.nan)
    target, beaten = work[0, start:stop], work[1, start:stop]
    label, classes = labels[start:stop], logits.shape[0]
    for i in range(label.size):
        k = label[i]
        target[i] = logits[k, start + i] if is_class(k, classes) else nan
        beaten[i] = zero if target[i] == target[i] else one
    for k in range(logits.shape[0]):
        z = logits[k, start:stop]
        for i in range(z.size):
            if z[i] > target[i] or (z[i] == target[i] and k < label[i]):
                beaten[i] = one
    correct = 0
    for i in range(beaten.size):
        if beaten[i] == zero:
            correct += 1
    return correct


@njit_strict
def softmax_nc(
    logits,  # (N, C), overwritten by the probabilities
):
    """Softmax of each row, in place."""
    for i in range(logits.shape[0]):
        z = logits[i]
        top = z[0]
        for k in range(z.size):
            top = max(top, z[k])
        for k in range(z.size):
            z[k] = exp_of_nonpositive(z[k] - top)
        normalizer = z.dtype.type(row_sum(z))
        for k in range(z.size):
            z[k] /= normalizer


@njit
def are_classes(labels, n):
    """Return whether all labels are from 0 to n - 1."""
    are_inside = True
    for i in range(labels.size):
        are_inside &= (labels[i] >= 0) & (labels[i] < n)
    return are_inside


@njit
def count_agreeing_cn(
    logits,  # (C, N)
    targets,  # (C, N) in [0, 1]
    start,  # samples start to stop
    stop,
    work,  # overwritten (1, N)
):
    """Count the samples whose logits are above 0 exactly where their targets are above 1/2."""
    one, zero = logits.dtype.type(1), logits.dtype.type(0)
    half = logits.dtype.type(0.5)
    wrong = work[0, start:stop]
    for i in range(wrong.size):
        wrong[i] = zero
    for k in range(logits.shape[0]):
        z, t = logits[k, start:stop], targets[k, start:stop]
        for i in range(z.size):
            if (z[i] > zero) != (t[i] > half) or z[i] != z[i]:
                wrong[i] = one
    agreeing = 0
    for i in range(wrong.size):
        if wrong[i] == zero:
            agreeing += 1
    return agreeing


@njit_strict
def sigmoid(
    logits,  # (K,), overwritten by the probabilities
):
    """1 / (1 + exp(-z)) of each value, in place."""
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    for i in range(logits.size):
        e = exp_of_nonpositive(-abs(logits[i]))
        logits[i] = (one if logits[i] > zero else e) / (one + e)
