"""The update of an accepted step: parameters, moments and running statistics."""

from __future__ import annotations

from fastbn.jit.compiler import njit_inlined
from fastbn.jit.intrinsics import mark
from fastbn.kernels.network_arrays import (
    BETA,
    GAMMA,
    KINDS,
    N_IN,
    N_OUT,
    NORMALIZED,
    UPDATE,
    WAIT,
    WEIGHT,
    features,
    share_rows,
)
from fastbn.kernels.optimizers import Settings, optimizer_step
from fastbn.kernels.reductions import row_sum
from fastbn.kernels.running import update_running_statistics
from fastbn.parallel.team import barrier


@njit_inlined
def update(network, recipe, work, clip, lr, step, rows, member):
    """Update all parameters and the running statistics; `step` counts from 1.

    Each member updates the parameters of its features. If each member gathers the whole minibatch,
    it can begin the next step without a barrier: until the next barrier, no other member reads the
    parameters that it updates.
    """
    of_weights = Settings(
        clip, lr, recipe.beta1, recipe.beta2, recipe.optimizer_eps,
        1.0 - recipe.beta1**step, 1.0 - recipe.beta2**step, recipe.nesterov, recipe.weight_decay,
    )  # fmt: skip
    of_vectors = Settings(
        clip, lr, recipe.beta1, recipe.beta2, recipe.optimizer_eps,
        of_weights.bias1, of_weights.bias2, recipe.nesterov,
        recipe.weight_decay if recipe.decay_vectors else 0.0,
    )  # fmt: skip
    is_measured = not recipe.weighted or row_sum(work.weight[:rows]) > 0
    for index in range(network.layers.shape[0]):
        layer = network.layers[index]
        first, last = share_rows(layer[N_OUT], member)
        for column in (WEIGHT, GAMMA, BETA):
            if column != GAMMA or layer[NORMALIZED]:
                start, size = layer[column], layer[N_IN] if column == WEIGHT else 1
                optimizer_step(
                    recipe.optimizer, network.params, network.grads, network.m, network.v,
                    of_weights if column == WEIGHT else of_vectors,
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
