"""Blocks of features, for sample-major batch norm of few features (docs/batchnorm.md).

A loop along short rows spends its time on the beginnings of rows, and on loading the parameters and
sums of the features for each row. So a block of features goes down the rows of a chunk with all of
these in registers: memory of the stack whose size the compiler knows. Wide matrices are left to
loops along rows, since the parts of a block would lie too far apart in memory.

Functions named `..._blocks` are for all features of a matrix that `has_blocks`.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import multiply_add, scratch_like, view
from fastbn.kernels.activations import affine_leaky_relu
from fastbn.kernels.batchnorm_formulas import (
    Norm,
    activation_gradient,
    gradient_input,
    normalized,
    of_feature,
)

# Features of a block. The last block of a matrix may be a slim one.
WIDE_BLOCK, SLIM_BLOCK = 64, 32

# Bytes of a row up to which blocks are faster than rows (`fastbn bench --suite kernels`).
NARROW_BYTES = 1024


@njit
def has_blocks(x):
    """Tell whether x (N, C) is computed by blocks: its rows are short, and whole blocks."""
    return x.shape[1] % SLIM_BLOCK == 0 and x.shape[1] * x.itemsize <= NARROW_BYTES


@njit_inlined
def norm_in_registers(norm, j, width):
    """Copy the numbers of features j to j + width to registers.

    In one loop: the compiler replaces a loop that copies a single vector by a call of memcpy, after
    which the copy stays in memory.
    """
    mean, rstd = scratch_like(norm.mean, width), scratch_like(norm.mean, width)
    gamma, beta = scratch_like(norm.mean, width), scratch_like(norm.mean, width)
    for k in range(width):
        mean[k] = norm.mean[j + k]
        rstd[k] = norm.rstd[j + k]
        gamma[k] = norm.gamma[j + k]
        beta[k] = norm.beta[j + k]
    return Norm(mean, rstd, gamma, beta)


@njit_inlined
def moments_block(width, x, first, last, j, shift, total, square):
    """Sums of d = x - shift and of d * d, for features j to j + width."""
    s, t, q = scratch_like(x, width), scratch_like(x, width), scratch_like(x, width)
    for k in range(width):
        s[k] = shift[j + k]
        t[k] = 0
        q[k] = 0
    fours = first + (last - first) // 4 * 4
    for i in range(first, fours, 4):
        a, b = view(x[i], j, (width,)), view(x[i + 1], j, (width,))
        c, d = view(x[i + 2], j, (width,)), view(x[i + 3], j, (width,))
        for k in range(width):
            a_k, b_k, c_k, d_k = a[k] - s[k], b[k] - s[k], c[k] - s[k], d[k] - s[k]
            t[k] += (a_k + b_k) + (c_k + d_k)
            ab, cd = multiply_add(a_k, a_k, b_k * b_k), multiply_add(c_k, c_k, d_k * d_k)
            q[k] += ab + cd
    for i in range(fours, last):
        a = view(x[i], j, (width,))
        for k in range(width):
            a_k = a[k] - s[k]
            t[k] += a_k
            q[k] = multiply_add(a_k, a_k, q[k])
    for k in range(width):
        total[j + k] = t[k]
        square[j + k] = q[k]


@njit_strict
def moments_blocks(
    x,  # (N, C)
    first,  # rows first to last
    last,
    shift,  # (C,)
    total,  # out (C,): the sum of d = x - shift
    square,  # out (C,): the sum of d * d
):
    """Moments around a shift."""
    whole = x.shape[1] // WIDE_BLOCK * WIDE_BLOCK
    for j in range(0, whole, WIDE_BLOCK):
        moments_block(WIDE_BLOCK, x, first, last, j, shift, total, square)
    if whole < x.shape[1]:
        moments_block(SLIM_BLOCK, x, first, last, whole, shift, total, square)


@njit_inlined
def affine_block(width, x, first, last, j, shift, scale, offset, slope, y):
    """y = act((x - shift) * scale + offset), for features j to j + width."""
    m, s, o = scratch_like(x, width), scratch_like(x, width), scratch_like(x, width)
    for k in range(width):
        m[k] = shift[j + k]
        s[k] = scale[j + k]
        o[k] = offset[j + k]
    for i in range(first, last):
        a, out = view(x[i], j, (width,)), view(y[i], j, (width,))
        for k in range(width):
            out[k] = affine_leaky_relu(a[k], m[k], s[k], o[k], slope)


@njit_strict
def affine_blocks(
    x,  # (N, C)
    first,  # rows first to last
    last,
    shift,  # (C,)
    scale,  # (C,)
    offset,  # (C,)
    slope,
    y,  # out (N, C)
):
    """y = act((x - shift) * scale + offset)."""
    whole = x.shape[1] // WIDE_BLOCK * WIDE_BLOCK
    for j in range(0, whole, WIDE_BLOCK):
        affine_block(WIDE_BLOCK, x, first, last, j, shift, scale, offset, slope, y)
    if whole < x.shape[1]:
        affine_block(SLIM_BLOCK, x, first, last, whole, shift, scale, offset, slope, y)


@njit_inlined
def sums_block(width, dy, x, first, last, j, norm, slope, total, total_x):
    """Sums of g and of g * xhat, for features j to j + width."""
    own = norm_in_registers(norm, j, width)
    t, tx = scratch_like(x, width), scratch_like(x, width)
    for k in range(width):
        t[k] = 0
        tx[k] = 0
    for i in range(first, last):
        a, da = view(x[i], j, (width,)), view(dy[i], j, (width,))
        for k in range(width):
            xhat = normalized(a[k], of_feature(own, k))
            g = activation_gradient(da[k], xhat, of_feature(own, k), slope)
            t[k] += g
            tx[k] = multiply_add(g, xhat, tx[k])
    for k in range(width):
        total[j + k] = t[k]
        total_x[j + k] = tx[k]


@njit_strict
def sums_blocks(
    dy,  # (N, C)
    x,  # (N, C)
    first,  # rows first to last
    last,
    norm,  # mean, rstd, gamma, beta
    slope,
    total,  # out (C,): the sum of g
    total_x,  # out (C,): the sum of g * xhat
):
    """Sums for dbeta and dgamma."""
    whole = x.shape[1] // WIDE_BLOCK * WIDE_BLOCK
    for j in range(0, whole, WIDE_BLOCK):
        sums_block(WIDE_BLOCK, dy, x, first, last, j, norm, slope, total, total_x)
    if whole < x.shape[1]:
        sums_block(SLIM_BLOCK, dy, x, first, last, whole, norm, slope, total, total_x)


@njit_inlined
def input_block(width, dy, x, first, last, j, norm, slope, coefficients, dx):
    """dx of features j to j + width."""
    own, one = norm_in_registers(norm, j, width), x.dtype.type(1)
    constant, linear = scratch_like(x, width), scratch_like(x, width)
    for k in range(width):
        constant[k] = coefficients[0, j + k]
        linear[k] = coefficients[1, j + k]
    for i in range(first, last):
        a, da = view(x[i], j, (width,)), view(dy[i], j, (width,))
        out = view(dx[i], j, (width,))
        for k in range(width):
            out[k] = gradient_input(
                da[k], a[k], of_feature(own, k), slope, one, constant[k], linear[k]
            )


@njit_strict
def input_blocks(
    dy,  # (N, C)
    x,  # (N, C)
    first,  # rows first to last
    last,
    norm,  # mean, rstd, gamma, beta
    slope,
    coefficients,  # (2, C): constant and linear of `gradient_input`
    dx,  # out (N, C)
):
    """dx of some rows."""
    whole = x.shape[1] // WIDE_BLOCK * WIDE_BLOCK
    for j in range(0, whole, WIDE_BLOCK):
        input_block(WIDE_BLOCK, dy, x, first, last, j, norm, slope, coefficients, dx)
    if whole < x.shape[1]:
        input_block(SLIM_BLOCK, dy, x, first, last, whole, norm, slope, coefficients, dx)
