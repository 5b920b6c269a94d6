"""The kernels that docs/batchnorm.md calls public keep their arguments."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from fastbn.kernels import batchnorm, batchnorm_nc, batchnorm_weighted, losses, optimizers
from fastbn.kernels.batchnorm_formulas import Norm

# Versions named ..._parallel take the same arguments.
SIGNATURES = {
    batchnorm: {
        "batch_norm_forward_cn": "x gamma beta eps slope start stop y mean var rstd",
        "batch_norm_backward_cn":
            "dy x gamma beta mean rstd slope exact start stop dx dgamma dbeta",
        "batch_norm_inference_cn": "x running_mean running_var gamma beta eps slope start stop y",
        "statistics_cn": "x start stop mean var work",
        "weighted_batch_norm_forward_cn":
            "x weight gamma beta eps slope start stop y mean var rstd",
        "weighted_batch_norm_backward_cn":
            "dy x weight gamma beta mean rstd slope exact start stop dx dgamma dbeta",
        "batch_norm_forward_nc": "x gamma beta eps slope y mean var rstd",
        "batch_norm_backward_nc": "dy x gamma beta mean rstd slope exact dx dgamma dbeta",
        "batch_norm_inference_nc": "x running_mean running_var gamma beta eps slope y",
        "update_running_statistics": "mean var n momentum unbiased running_mean running_var",
        "fold": "weight gamma beta running_mean running_var eps folded_weight folded_bias",
    },
    optimizers: {
        "adam": "param grad m v clip lr beta1 beta2 eps bias1 bias2 weight_decay decoupled "
                "start stop",
    },
    losses: {"softmax_cross_entropy_cn": "logits labels weight smoothing start stop work dlogits"},
}  # fmt: skip


def parameters(kernel):
    return list(inspect.signature(getattr(kernel, "py_func", kernel)).parameters)


def test_public_kernels_keep_their_arguments():
    for module, signatures in SIGNATURES.items():
        for name, expected in signatures.items():
            assert parameters(getattr(module, name)) == expected.split(), name
    listed = SIGNATURES[batchnorm]
    assert {name.removesuffix("_parallel") for name in batchnorm.__all__} == set(listed)
    for name in batchnorm.__all__:
        expected = listed[name.removesuffix("_parallel")].split()
        assert parameters(getattr(batchnorm, name)) == expected, name


@pytest.mark.parametrize("kind", ["nc", "nc_parallel", "weighted"])
def test_sample_major_and_weighted_kernels_take_arguments_one_by_one(rng, kind):
    """Feature-major ones are in `test_batchnorm_docs`."""
    x, dy = rng.standard_normal((2, 6, 6), np.float32)
    gamma, beta = rng.standard_normal((2, 6), np.float32)
    eps, slope = np.float32(1e-5), np.float32(0.1)
    weighted = kind == "weighted"
    weight = (np.arange(1, 7, dtype=np.float32) / 21,) if weighted else ()
    part = {"start": 0, "stop": 6} if weighted else {}
    name = "weighted_batch_norm_{}_cn" if weighted else f"batch_norm_{{}}_{kind}"
    var_dtype = np.float32 if weighted else np.float64

    def results(module, is_flat):
        y, dx, var = np.empty_like(x), np.empty_like(x), np.empty(6, var_dtype)
        mean, rstd, dgamma, dbeta = np.empty((4, 6), np.float32)
        forward, backward = (getattr(module, name.format(way)) for way in ("forward", "backward"))
        norm = (gamma, beta, mean, rstd) if is_flat else (Norm(mean, rstd, gamma, beta),)
        inputs = (gamma, beta) if is_flat else norm
        outputs = {"mean": mean, "var": var, "rstd": rstd} if is_flat else {"var": var}
        done = forward(x, *weight, *inputs, eps, slope, **part, y=y, **outputs)
        assert weighted or done
        gradients = {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}
        backward(dy, x, *weight, *norm, slope, True, **part, **gradients)
        return [y, mean, var, rstd, dx, dgamma, dbeta]

    home = batchnorm_weighted if weighted else batchnorm_nc
    for got, expected in zip(results(batchnorm, True), results(home, False), strict=True):
        np.testing.assert_array_equal(got, expected)
