"""Sample-major batch norm of few features, block by block.

A loop along short rows spends its time on beginning rows, and on loading the features' parameters
and sums anew for each. So a block of features walks down the rows of a chunk with all of those in
registers: memory of the stack whose size the compiler knows. Wide matrices are left to loops along
rows, whose parts lie too far apart in memory for such a walk.

Every function does the blocks that a matrix has, and returns the first feature that is left.
"""

from __future__ import annotations

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import multiply_add, scratch_like, view

# Features of a block; the last may be slim.
WIDE, SLIM = 64, 32

# Bytes of a row up to which blocks are faster than rows (`fastbn bench --suite kernels`).
NARROW_BYTES = 1024


@njit
def has_blocks(x):
    """Tell whether x (N, C) is worked on by blocks: its rows are short, and whole blocks."""
    return x.shape[1] % SLIM == 0 and x.shape[1] * x.itemsize <= NARROW_BYTES


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
    whole = x.shape[1] // WIDE * WIDE
    for j in range(0, whole, WIDE):
        moments_block(WIDE, x, first, last, j, shift, total, square)
    if whole < x.shape[1]:
        moments_block(SLIM, x, first, last, whole, shift, total, square)


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
            t = multiply_add(a[k] - m[k], s[k], o[k])
            out[k] = t if t > 0 else slope * t


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
    whole = x.shape[1] // WIDE * WIDE
    for j in range(0, whole, WIDE):
        affine_block(WIDE, x, first, last, j, shift, scale, offset, slope, y)
    if whole < x.shape[1]:
        affine_block(SLIM, x, first, last, whole, shift, scale, offset, slope, y)


@njit_inlined
def sums_block(width, dy, x, first, last, j, gamma, beta, mean, rstd, slope, total, total_x):
    """Sums of g and of g * xhat, for features j to j + width."""
    g, b = scratch_like(x, width), scratch_like(x, width)
    m, r = scratch_like(x, width), scratch_like(x, width)
    t, tx = scratch_like(x, width), scratch_like(x, width)
    for k in range(width):
        g[k] = gamma[j + k]
        b[k] = beta[j + k]
        m[k] = mean[j + k]
        r[k] = rstd[j + k]
        t[k] = 0
        tx[k] = 0
    for i in range(first, last):
        a, da = view(x[i], j, (width,)), view(dy[i], j, (width,))
        for k in range(width):
            xhat = (a[k] - m[k]) * r[k]
            g_k = da[k] if multiply_add(xhat, g[k], b[k]) > 0 else slope * da[k]
            t[k] += g_k
            tx[k] = multiply_add(g_k, xhat, tx[k])
    for k in range(width):
        total[j + k] = t[k]
        total_x[j + k] = tx[k]


@njit_strict
def sums_blocks(
    dy,  # (N, C)
    x,  # (N, C)
    first,  # rows first to last
    last,
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    total,  # out (C,): the sum of g
    total_x,  # out (C,): the sum of g * xhat
):
    """Sums for dbeta and dgamma."""
    whole = x.shape[1] // WIDE * WIDE
    for j in range(0, whole, WIDE):
        sums_block(WIDE, dy, x, first, last, j, gamma, beta, mean, rstd, slope, total, total_x)
    if whole < x.shape[1]:
        sums_block(SLIM, dy, x, first, last, whole, gamma, beta, mean, rstd, slope, total, total_x)


@njit_inlined
def input_block(
    width, dy, x, first, last, j, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx
):  # fmt: skip
    """dx = gamma * rstd * (g - mean_g - xhat * mean_gx), for features j to j + width."""
    g, b = scratch_like(x, width), scratch_like(x, width)
    m, r = scratch_like(x, width), scratch_like(x, width)
    constant, linear = scratch_like(x, width), scratch_like(x, width)
    for k in range(width):
        g[k] = gamma[j + k]
        b[k] = beta[j + k]
        m[k] = mean[j + k]
        r[k] = rstd[j + k]
        constant[k] = mean_g[j + k]
        linear[k] = mean_gx[j + k]
    for i in range(first, last):
        a, da = view(x[i], j, (width,)), view(dy[i], j, (width,))
        out = view(dx[i], j, (width,))
        for k in range(width):
            xhat = (a[k] - m[k]) * r[k]
            g_k = da[k] if multiply_add(xhat, g[k], b[k]) > 0 else slope * da[k]
            out[k] = g[k] * r[k] * (g_k - multiply_add(xhat, linear[k], constant[k]))


@njit_strict
def input_blocks(
    dy,  # (N, C)
    x,  # (N, C)
    first,  # rows first to last
    last,
    gamma,  # (C,)
    beta,  # (C,)
    mean,  # (C,)
    rstd,  # (C,)
    slope,
    mean_g,  # (C,)
    mean_gx,  # (C,)
    dx,  # out (N, C)
):
    """dx = gamma * rstd * (g - mean_g - xhat * mean_gx)."""
    whole = x.shape[1] // WIDE * WIDE
    for j in range(0, whole, WIDE):
        input_block(
            WIDE, dy, x, first, last, j, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx
        )
    if whole < x.shape[1]:
        input_block(
            SLIM, dy, x, first, last, whole, gamma, beta, mean, rstd, slope, mean_g, mean_gx, dx
        )
