"""Sample-major batch norm of few features, in blocks of columns (docs/batchnorm.md).

A loop along short rows is slow: it starts again for each row, and loads the parameters and sums of
all features each time. So these kernels take a block of features at a time and go down the rows of
a chunk. The parameters and sums of a block stay in registers, because they are in stack memory
whose size the compiler knows. Wide matrices use loops along rows (`batchnorm_nc_rows`), because
consecutive rows of a block would be too far apart in memory.

Functions named `..._blocks` process all features of a matrix for which `has_blocks` is true.
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

# Features in a block. The last block of a matrix may be slim.
WIDE_BLOCK, SLIM_BLOCK = 64, 32

# Rows of at most this many bytes are faster in blocks (`fastbn bench --suite kernels`).
NARROW_BYTES = 1024


@njit
def has_blocks(x):
    """Return whether x (N, C) is computed in blocks: short rows, and C a multiple of SLIM_BLOCK."""
    return x.shape[1] % SLIM_BLOCK == 0 and x.shape[1] * x.itemsize <= NARROW_BYTES


@njit_inlined
def norm_in_registers(norm, j, width):
    """Copy the numbers of features j to j + width to registers.

    One loop copies all four: the compiler would turn a loop that copies a single vector into a call
    of memcpy, and the copy would stay in memory.
    """
    mean, rstd = scratch_like(norm[0], width), scratch_like(norm[0], width)
    gamma, beta = scratch_like(norm[0], width), scratch_like(norm[0], width)
    for k in range(width):
        mean[k], rstd[k], gamma[k], beta[k] = of_feature(norm, j + k)
    return Norm(mean, rstd, gamma, beta)


@njit_inlined
def moments_block(width, x, first, last, j, shift, total, square):
    """Sum d = x - shift and d * d over rows first to last, for features j to j + width."""
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
def moments_blocks(x, first, last, shift, total, square):
    """Run `moments_block` on all features (for `statistics_nc.add_moments`)."""
    for j in range(0, x.shape[1], WIDE_BLOCK):
        if j + WIDE_BLOCK <= x.shape[1]:
            moments_block(WIDE_BLOCK, x, first, last, j, shift, total, square)
        else:
            moments_block(SLIM_BLOCK, x, first, last, j, shift, total, square)


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
def affine_blocks(x, first, last, shift, scale, offset, slope, y):
    """Run `affine_block` on all features (for `batchnorm_nc.chunk_affine_activation_nc`)."""
    for j in range(0, x.shape[1], WIDE_BLOCK):
        if j + WIDE_BLOCK <= x.shape[1]:
            affine_block(WIDE_BLOCK, x, first, last, j, shift, scale, offset, slope, y)
        else:
            affine_block(SLIM_BLOCK, x, first, last, j, shift, scale, offset, slope, y)


@njit_inlined
def sums_block(width, dy, x, first, last, j, norm, slope, total, total_x):
    """Sum g and g * xhat over rows first to last, for features j to j + width."""
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
def sums_blocks(dy, x, first, last, norm, slope, total, total_x):
    """Run `sums_block` on all features (for `batchnorm_nc.chunk_gradient_sums_nc`)."""
    for j in range(0, x.shape[1], WIDE_BLOCK):
        if j + WIDE_BLOCK <= x.shape[1]:
            sums_block(WIDE_BLOCK, dy, x, first, last, j, norm, slope, total, total_x)
        else:
            sums_block(SLIM_BLOCK, dy, x, first, last, j, norm, slope, total, total_x)


@njit_inlined
def input_block(width, dy, x, first, last, j, norm, slope, coefficients, dx):
    """Compute dx of rows first to last, for features j to j + width."""
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
def input_blocks(dy, x, first, last, norm, slope, coefficients, dx):
    """Run `input_block` on all features (for `batchnorm_nc.chunk_gradient_input_nc`)."""
    for j in range(0, x.shape[1], WIDE_BLOCK):
        if j + WIDE_BLOCK <= x.shape[1]:
            input_block(WIDE_BLOCK, dy, x, first, last, j, norm, slope, coefficients, dx)
        else:
            input_block(SLIM_BLOCK, dy, x, first, last, j, norm, slope, coefficients, dx)
