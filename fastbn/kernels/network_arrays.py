"""The arguments of a training step: named tuples, the layer table, and views of its tensors.

Parameters, gradients and both moments are four flat buffers. The layer table has the place of each
tensor in them. Activations are feature-major: (units, rows of the minibatch).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastbn.jit.compiler import njit, njit_inlined
from fastbn.jit.intrinsics import TILE_ROWS, view
from fastbn.kernels.gemm import whole
from fastbn.parallel.team import share

# columns of the layer table
N_IN, N_OUT, WEIGHT, GAMMA, BETA, UNIT, PADDED_UNIT, NORMALIZED = range(8)

# Kinds of marks in a member's log. A mark says which work the member has just finished. Its number
# is kind + KINDS * layer.
(
    BEGIN, GATHER, PRODUCT, FORWARD, DROPOUT, PACK, LOSS, INPUT_GRADIENT, BACKWARD, PACK_GRADIENT,
    GATHER_AGAIN, WEIGHT_GRADIENT, CLIP, UPDATE, WAIT, KINDS,
) = range(16)  # fmt: skip


class Network(NamedTuple):
    """A network. In a layer without batch norm, BETA is the place of the bias."""

    layers: np.ndarray  # (layers, 8) int64: the columns above
    params: np.ndarray  # (K,)
    grads: np.ndarray  # (K,)
    m: np.ndarray  # (K,)
    v: np.ndarray  # (K,)
    running_mean: np.ndarray  # (units,)
    running_var: np.ndarray  # (units,)


class Recipe(NamedTuple):
    """The settings of training. `eps` and `slope` have the dtype of the parameters."""

    eps: np.floating
    slope: np.floating
    elementwise: int  # code of the hidden layers' elementwise activation, or NONE
    momentum: float
    unbiased: bool  # for running variances
    weighted: bool  # sample weights count in the statistics of the batch
    exact: bool
    dropout: float
    seed: int  # for the dropout masks
    loss: int
    smoothing: float  # label smoothing
    optimizer: int
    beta1: float
    beta2: float
    optimizer_eps: float
    nesterov: bool
    weight_decay: float
    decay_vectors: bool  # decay gamma, beta and biases, too
    max_norm: float
    limit: np.floating  # a step is refused if an entry of its gradient reaches this magnitude
    most_refused: int  # consecutive refused steps that are skipped; one more ends the call
    gathers_whole_batch: bool  # each member gathers all rows, for its first-layer features


class Workspace(NamedTuple):
    """Scratch memory for minibatches of up to `rows` samples, all flat.

    `padded` rows or units are rounded up to whole panels (kernels/gemm.py).
    """

    x: np.ndarray  # (members, (DEPTH + 1) * padded inputs) rows gathered by each member
    labels: np.ndarray  # (rows,) int64
    weight: np.ndarray  # (rows,)
    z: np.ndarray  # (rows * units,) pre-activations of all layers
    a: np.ndarray  # (rows * widest layer,) activations of one layer
    a_panels: np.ndarray  # (padded rows * units,) activations of all layers, as right operands
    at_panels: np.ndarray  # (rows * padded units,) transposed activations of all layers
    da: np.ndarray  # (rows * widest layer,)
    dz: np.ndarray  # (rows * widest layer,)
    dz_panels: np.ndarray  # (2, padded rows * widest layer)
    loss: np.ndarray  # (3 * rows,)
    mean: np.ndarray  # (units,)
    var: np.ndarray  # (units,)
    rstd: np.ndarray  # (units,)
    partial: np.ndarray  # (parts,) float64: losses of PART_ROWS samples each
    hits: np.ndarray  # (parts,) int64: correctly classified samples of each part
    overflows: np.ndarray  # (members,) int64: whether a member's gradients reach the limit


class Samples(NamedTuple):
    """The data, and the scaling that is applied when a minibatch is gathered."""

    x: np.ndarray  # (N, inputs), of the parameters' dtype or bytes
    labels: np.ndarray  # (N,) int64, or (0,) if the loss takes targets
    targets: np.ndarray  # (N, outputs), or (0, outputs) if the loss takes labels
    weight: np.ndarray  # (N,), or (0,) for equal weights
    center: np.ndarray  # (inputs,)
    scale: np.ndarray  # (inputs,)


# Predictions read fewer arrays. Each array takes a tenth of a microsecond to pass from Python, and
# the smallest predictions only some microseconds.


class Predictor(NamedTuple):
    """A trained network, as predictions read it: parts of `Network` and `Recipe`."""

    layers: np.ndarray
    params: np.ndarray
    running_mean: np.ndarray
    running_var: np.ndarray
    eps: np.floating
    slope: np.floating
    elementwise: int
    packed: np.ndarray  # transposed weights of all layers, packed by `pack_weights`


class PredictionWorkspace(NamedTuple):
    """Scratch memory to predict up to `rows` samples."""

    order: np.ndarray  # (rows,) int64: which samples are predicted
    x: np.ndarray  # (rows * inputs,) scaled samples
    a: np.ndarray  # (2, rows * widest layer) activations of the present layer and the one before
    shift: np.ndarray  # (units,)
    scale: np.ndarray  # (units,)


class Inputs(NamedTuple):
    """Data to predict from, and their scaling."""

    x: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    is_ready: bool  # x has the dtype of the parameters, and the scaling changes nothing


@njit_inlined
def tensor(buffer, layer, column):
    """Return the view of a layer's vector (gamma, beta or bias) in a flat buffer."""
    return view(buffer, layer[column], (layer[N_OUT],))


@njit_inlined
def matrix(buffer, layer):
    """Return the view (outputs, inputs) of a layer's weight in a flat buffer."""
    return view(buffer, layer[WEIGHT], (layer[N_OUT], layer[N_IN]))


@njit_inlined
def units(buffer, layer, rows):
    """Return the view (outputs, rows) of a layer's activations in a flat buffer."""
    return view(buffer, layer[UNIT] * rows, (layer[N_OUT], rows))


@njit_inlined
def features(buffer, layer):
    """Return the view (outputs,) of a layer's statistics in a flat buffer."""
    return view(buffer, layer[UNIT], (layer[N_OUT],))


@njit_inlined
def as_batch(x):
    """Return the view (1, C, N) of a feature-major matrix, which the batch norm kernels take."""
    return view(x, 0, (1, x.shape[0], x.shape[1]))


@njit_inlined
def layer_slope(network, slope, index):
    """Return the slope of a layer's LeakyReLU: 1 for the last layer, which has no activation."""
    one = network.params.dtype.type(1)
    return one if index == network.layers.shape[0] - 1 else slope


@njit
def share_rows(n, member):
    """Return first and last of a member's share of n rows: whole tiles, except at the end."""
    first, last = share(whole(n, TILE_ROWS), member)
    return first * TILE_ROWS, min(last * TILE_ROWS, n)
