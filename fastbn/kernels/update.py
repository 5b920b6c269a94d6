"""What an accepted step changes: parameters, moments and running statistics."""

from __future__ import annotations

from fastbn.jit.compiler import njit_inlined, njit_strict
from fastbn.jit.intrinsics import mark
from fastbn.kernels.network_arrays import (
    ADAMW,
    BETA,
    GAMMA,
    KINDS,
    N_IN,
    N_OUT,
    NORMALIZED,
    RMSPROP,
    SGD,
    UPDATE,
    WAIT,
    WEIGHT,
    features,
    share_rows,
)
from fastbn.kernels.optimizers import adam, rmsprop, sgd
from fastbn.kernels.reductions import row_sum
from fastbn.kernels.running import update_running_statistics
from fastbn.parallel.team import barrier


@njit_inlined
def update(network, recipe, work, clip, lr, step, rows, member):
    """One step of the optimizer over all parameters, and running statistics; `step` is from 1.

    A member updates what belongs to its features, and goes on to the next step if it keeps those of
    the first layer, too: other weights are not looked at by others before another barrier.
    """
    is_measured = not recipe.weighted or row_sum(work.weight[:rows]) > 0
    for index in range(network.layers.shape[0]):
        layer = network.layers[index]
        first, last = share_rows(layer[N_OUT], member)
        for column in (WEIGHT, GAMMA, BETA):
            if column != GAMMA or layer[NORMALIZED]:
                start, size = layer[column], layer[N_IN] if column == WEIGHT else 1
                decays = column == WEIGHT or recipe.decay_vectors
                decay = recipe.weight_decay if decays else 0.0
                update_part(
                    network, recipe, clip, lr, decay, step,
                    start + first * size, start + last * size,
                )  # fmt: skip
        if layer[NORMALIZED] and is_measured:
            update_running_statistics(
                features(work.mean, layer)[first:last], features(work.var, layer)[first:last],
                rows, recipe.momentum, recipe.unbiased,
                features(network.running_mean, layer)[first:last],
                features(network.running_var, layer)[first:last],
            )  # fmt: skip
        mark(member.log, UPDATE + KINDS * index)
    if not recipe.gathers_whole_batch:
        barrier(member)
        mark(member.log, WAIT)


@njit_strict
def update_part(network, recipe, clip, lr, decay, step, first, last):
    """One step of the optimizer on parameters first to last of the flat buffers."""
    params, grads, m, v = network.params, network.grads, network.m, network.v
    if recipe.optimizer == SGD:
        sgd(params, grads, m, clip, lr, recipe.beta1, recipe.nesterov, decay, first, last)
    elif recipe.optimizer == RMSPROP:
        rmsprop(params, grads, v, clip, lr, recipe.beta2, recipe.optimizer_eps, decay, first, last)
    else:
        adam(
            params, grads, m, v, clip, lr, recipe.beta1, recipe.beta2, recipe.optimizer_eps,
            1.0 - recipe.beta1**step, 1.0 - recipe.beta2**step,
            decay, recipe.optimizer == ADAMW, first, last,
        )  # fmt: skip
