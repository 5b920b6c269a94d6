"""LeakyReLU, the bias of layers without batch norm, and dropout.

ReLU is LeakyReLU with slope 0, and the identity has slope 1, so one loop computes all three:

    a = y if y > 0 else slope * y            da/dy = 1 if y > 0 else slope

No kernel stores a mask: the backward pass computes the sign of y again.

Arrays are feature-major: a row of (C, N) holds one feature of all samples.

Loops over elements are compiled without fast-math, as in all kernels: the vectorized part of a loop
and its remainder round in the same way, so the bits do not depend on where a loop is cut.
"""

from __future__ import annotations

import numpy as np

from fastbn.jit.compiler import njit, njit_inlined, njit_strict
from fastbn.jit.intrinsics import multiply_add, scratch_like, stream_piece, view
from fastbn.kernels.reductions import row_sum
from fastbn.kernels.streams import PIECE, whole_pieces


@njit_inlined
def affine_leaky_relu(x, shift, scale, offset, slope):
    """Return act((x - shift) * scale + offset) of one number. Callers must not use fast-math."""
    t = multiply_add(x - shift, scale, offset)
    y = t if t > 0 else slope * t
    return y


@njit_inlined
def affine_activation(x, shift, scale, offset, slope, y):
    """Apply `affine_leaky_relu` to one row."""
    for i in range(x.size):
        y[i] = affine_leaky_relu(x[i], shift, scale, offset, slope)


@njit_strict
def stream_affine_activation(x, shift, scale, offset, slope, y):
    """Like `affine_activation`, but with non-temporal stores; the caller must call `fence()`."""
    first, last = whole_pieces(y)
    piece = scratch_like(y, PIECE)
    affine_activation(x[:first], shift, scale, offset, slope, y[:first])
    for i in range(first, last, PIECE):
        affine_activation(view(x, i, (PIECE,)), shift, scale, offset, slope, piece)
        stream_piece(PIECE, piece, y, i)
    affine_activation(x[last:], shift, scale, offset, slope, y[last:])


@njit_strict
def bias_activation_forward_cn(
    z,  # (C, N) pre-activations
    bias,  # (C,)
    slope,
    start,  # features start to stop
    stop,
    a,  # out (C, N)
):
    """a = act(z + bias)."""
    one = z.dtype.type(1)
    zero = z.dtype.type(0)
    for c in range(start, stop):
        affine_activation(z[c], zero, one, bias[c], slope, a[c])


@njit_strict
def bias_activation_backward_cn(
    da,  # (C, N) gradient of the activations
    z,  # (C, N)
    bias,  # (C,)
    slope,
    start,  # features start to stop
    stop,
    dz,  # out (C, N)
    dbias,  # out (C,)
):
    """dz = da * act'(z + bias), dbias = sum(dz) over the samples."""
    for c in range(start, stop):
        da_c, z_c, dz_c, bias_c = da[c], z[c], dz[c], bias[c]
        for i in range(z_c.size):
            dz_c[i] = da_c[i] if z_c[i] + bias_c > 0 else slope * da_c[i]
        dbias[c] = row_sum(dz_c)


@njit
def mix32(h):
    """Scramble a uint32 (the finalizer of MurmurHash3, Appleby 2011).

    Products have 64 bits. As each result is cut to 32, LLVM uses vectors of 32-bit numbers.
    """
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint64(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint64(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@njit
def dropout_key(seed, step, layer):
    """Return a 32-bit key for one layer in one step, so that each has its own mask."""
    key = mix32(np.uint32(seed))
    key = mix32(np.uint32(key + np.uint64(step)))
    return mix32(np.uint32(key + np.uint64(layer)))


@njit_strict
def dropout(
    x,  # (K,) flat values, overwritten
    first,  # position of x[0] in the layer
    rate,  # probability of dropping a value
    key,  # from `dropout_key`
):
    """Inverted dropout in place: x = 0 with probability `rate`, else x / (1 - rate).

    The mask is a hash of key and position, not a stored array: the backward pass calls this again
    on the gradient. It does not depend on threads, chunks or the order of calls.
    """
    threshold = np.uint32(rate * 4294967296.0)
    keep = x.dtype.type(1.0 / (1.0 - rate))
    zero = x.dtype.type(0)
    for i in range(x.size):
        kept, place = x[i] * keep, np.uint32(np.uint64(first + i) ^ np.uint64(key))
        x[i] = kept if mix32(place) >= threshold else zero
