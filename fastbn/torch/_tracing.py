"""Detect calls whose operations PyTorch records instead of computing them."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

# Plain tensors: subclasses may redefine operations.
PLAIN = (torch.Tensor, torch.nn.Parameter)

# The attribute in which an accelerated module keeps its original class.
ORIGINAL = "_fastbn_original"


def is_traced(x: Any = None) -> bool:
    """Return whether a call must use PyTorch's own operations.

    In such a call, nothing may depend on sizes or addresses, and every operation has to go through
    PyTorch's dispatcher. These are calls under `torch.compile`, `torch.export`, `torch.jit.trace`,
    the transforms of `torch.func`, modes for operations (`FakeTensorMode`, `make_fx`) and for
    functions, forward-mode differentiation, and calls with subclasses of tensors or with proxies of
    `torch.fx`.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or forward_ad._current_level >= 0
        or (type(x) not in PLAIN and hasattr(type(x), "__torch_function__"))
    )


def as_leaf(module: torch.nn.Module, x: Any) -> Any:
    """Return the node of a `torch.fx` graph that calls a module, or None for the root module."""
    tracer = x.tracer
    if type(tracer).__module__.startswith("torch.ao.quantization"):
        raise refusal("torch.ao.quantization", module)
    path = tracer.path_of_module(module)
    return tracer.create_proxy("call_module", path, (x,), {}) if path else None


def refusal(who: str, module: torch.nn.Module) -> RuntimeError:
    """Return the error for a tool that supports only PyTorch's own classes."""
    name = type(module).__name__
    advice = "call fastbn.torch.restore(model) first"
    if not hasattr(module, ORIGINAL):
        advice = f"use a module of torch.nn instead of fastbn.torch's {name}"
    return RuntimeError(f"{who} supports only PyTorch's own modules: {advice}")
