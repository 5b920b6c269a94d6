"""Sample-major batch norm of many features, by loops along rows (docs/batchnorm.md).

Large results are written with non-temporal stores, in pieces of whole cache lines (`streams`).
"""

from __future__ import annotations

from fastbn.jit.compiler import njit_inlined, njit_strict
from fastbn.jit.intrinsics import scratch_like, stream_piece, view
from fastbn.kernels.activations import affine_leaky_relu
from fastbn.kernels.batchnorm_formulas import Norm, gradient_input, of_feature
from fastbn.kernels.streams import PIECE, whole_pieces


@njit_inlined
def row_affine_activation(x, shift, scale, offset, slope, y):
    """y = act((x - shift) * scale + offset) for a part of one row."""
    for j in range(x.size):
        y[j] = affine_leaky_relu(x[j], shift[j], scale[j], offset[j], slope)


@njit_strict
def put_affine_activation(x, k, shift, scale, offset, slope, out):
    """Compute elements k, k + 1, ... of the flattened y, until `out` is full."""
    features, done = shift.size, 0
    while done < out.size:
        i, j = (k + done) // features, (k + done) % features
        last = min(j + out.size - done, features)
        row_affine_activation(
            x[i, j:last], shift[j:last], scale[j:last], offset[j:last], slope,
            out[done : done + last - j],
        )  # fmt: skip
        done += last - j


@njit_strict
def stream_affine_activation_nc(x, first, last, shift, scale, offset, slope, y):
    """Compute rows first to last of y with non-temporal stores; the caller must call `fence()`.

    A piece may extend from one row into the next.
    """
    features = shift.size
    start = first * features
    flat = view(y, start, ((last - first) * features,))
    head, tail = whole_pieces(flat)
    piece, across = scratch_like(y, PIECE), scratch_like(y, PIECE)
    put_affine_activation(x, start, shift, scale, offset, slope, flat[:head])
    for k in range(head, tail, PIECE):
        i, j = (start + k) // features, (start + k) % features
        if j + PIECE <= features:
            row_affine_activation(
                view(x[i], j, (PIECE,)), view(shift, j, (PIECE,)), view(scale, j, (PIECE,)),
                view(offset, j, (PIECE,)), slope, piece,
            )  # fmt: skip
            stream_piece(PIECE, piece, flat, k)
        else:
            put_affine_activation(x, start + k, shift, scale, offset, slope, across)
            stream_piece(PIECE, across, flat, k)
    put_affine_activation(x, start + tail, shift, scale, offset, slope, flat[tail:])


@njit_inlined
def row_gradient_input(dy, x, norm, slope, coefficients, dx):
    """Compute dx of one row, or of a part of it if all arrays are cut in the same way."""
    constant, linear, one = coefficients[0], coefficients[1], x.dtype.type(1)
    for j in range(x.size):
        dx[j] = gradient_input(dy[j], x[j], of_feature(norm, j), slope, one, constant[j], linear[j])


@njit_inlined
def part_gradient_input(dy, x, norm, slope, coefficients, start, size, dx):
    """Compute dx for elements start to start + size of a row; `dx` has just these elements."""
    part = (size,)
    mean, rstd, gamma, beta = norm
    norm_part = Norm(
        view(mean, start, part), view(rstd, start, part), view(gamma, start, part),
        view(beta, start, part),
    )  # fmt: skip
    both = view(coefficients[0], start, part), view(coefficients[1], start, part)
    row_gradient_input(view(dy, start, part), view(x, start, part), norm_part, slope, both, dx)


@njit_strict
def stream_row_gradient_input(dy, x, norm, slope, coefficients, dx):
    """Like `row_gradient_input`, but with non-temporal stores; the caller must call `fence()`."""
    first, last = whole_pieces(dx)
    piece = scratch_like(dx, PIECE)
    part_gradient_input(dy, x, norm, slope, coefficients, 0, first, dx[:first])
    for j in range(first, last, PIECE):
        part_gradient_input(dy, x, norm, slope, coefficients, j, PIECE, piece)
        stream_piece(PIECE, piece, dx, j)
    part_gradient_input(dy, x, norm, slope, coefficients, last, dx.size - last, dx[last:])
