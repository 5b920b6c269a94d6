"""The oracle for a whole training step: a multilayer perceptron with batch norm, in float64.

Feature-major: a column is a sample.

    Z = W A_prev          Y = gamma * Zhat + beta          A = LeakyReLU(Y), or softmax at the end
    dW = dZ A_prev^T      dA_prev = W^T dZ
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbn import reference as ref
from fastbn.reference._arrays import Array, Gradient


def forward(
    params: dict[str, Array],
    x: Any,
    *,
    slope: float,
    elementwise: str | None = None,
    eps: float = 1e-5,
    masks: list[Array] | None = None,
    sample_weight: Any = None,
) -> tuple[Array, list[dict[str, Any]]]:
    """Return logits (classes, N) for samples x (N, features), and what `backward` needs, by layer.

    `params` maps "layers.0.weight" (out, in), "layers.0.gamma" and "layers.0.beta", or
    "layers.0.bias" for a layer without batch norm. `elementwise` is the activation of the hidden
    layers, as in `reference.elementwise`; with it, pass a `slope` of 1. `masks` are dropout masks,
    one per hidden layer. `sample_weight` (N,) weights the statistics of the batch.
    """
    a = np.asarray(x, np.float64).T
    caches = []
    n_layers = sum(name.endswith("weight") for name in params)
    for index in range(n_layers):
        weight = params[f"layers.{index}.weight"]
        gamma = params.get(f"layers.{index}.gamma")
        layer_slope = 1.0 if index == n_layers - 1 else slope
        z = weight @ a
        cache: dict[str, Any] = {"a_prev": a, "z": z, "slope": layer_slope}
        if gamma is None:
            a = ref.bias_activation(z, params[f"layers.{index}.bias"], layer_slope)
        else:
            beta = params[f"layers.{index}.beta"]
            a, mean, rstd = ref.batch_norm(z, gamma, beta, eps, layer_slope, "CN", sample_weight)
            var = ref.batch_statistics(z, "CN", sample_weight)[1]
            cache |= {"mean": mean, "var": var, "rstd": rstd, "sample_weight": sample_weight}
        if elementwise is not None and index < n_layers - 1:
            cache |= {"elementwise": elementwise, "y": a}
            a = ref.elementwise(a, elementwise)
        if masks is not None and index < n_layers - 1:
            a = a * masks[index]
        caches.append(cache)
    return a, caches


def backward(
    params: dict[str, Array],
    caches: list[dict[str, Any]],
    dlogits: Array,
    *,
    gradient: Gradient = "exact",
    masks: list[Array] | None = None,
) -> dict[str, Array]:
    """Return the gradients of all parameters, by name."""
    grads: dict[str, Array] = {}
    da = dlogits
    for index in range(len(caches) - 1, -1, -1):
        cache, name = caches[index], f"layers.{index}"
        if masks is not None and index < len(caches) - 1:
            da = da * masks[index]
        if "elementwise" in cache:
            da = da * ref.elementwise_gradient(cache["y"], cache["elementwise"])
        gamma = params.get(f"{name}.gamma")
        if gamma is None:
            dz, grads[f"{name}.bias"] = ref.bias_activation_backward(
                da, cache["z"], params[f"{name}.bias"], cache["slope"]
            )
        else:
            dz, grads[f"{name}.gamma"], grads[f"{name}.beta"] = ref.batch_norm_backward(
                da, cache["z"], gamma, params[f"{name}.beta"], cache["mean"], cache["rstd"],
                cache["slope"], "CN", gradient, cache["sample_weight"],
            )  # fmt: skip
        grads[f"{name}.weight"] = dz @ cache["a_prev"].T
        da = params[f"{name}.weight"].T @ dz
    return grads


def infer(
    params: dict[str, Array],
    running: dict[str, Array],
    x: Any,
    *,
    slope: float,
    elementwise: str | None = None,
    eps: float = 1e-5,
) -> Array:
    """Return logits (classes, N) for samples x (N, features) with the running statistics.

    `running` maps "layers.0.running_mean" and "layers.0.running_var", for every normalized layer.
    """
    a = np.asarray(x, np.float64).T
    n_layers = sum(name.endswith("weight") for name in params)
    for index in range(n_layers):
        name = f"layers.{index}"
        layer_slope = 1.0 if index == n_layers - 1 else slope
        z = params[f"{name}.weight"] @ a
        if f"{name}.gamma" in params:
            a = ref.batch_norm_inference(
                z, running[f"{name}.running_mean"], running[f"{name}.running_var"],
                params[f"{name}.gamma"], params[f"{name}.beta"], eps, layer_slope, "CN",
            )  # fmt: skip
        else:
            a = ref.bias_activation(z, params[f"{name}.bias"], layer_slope)
        if elementwise is not None and index < n_layers - 1:
            a = ref.elementwise(a, elementwise)
    return a
