"""The peers, whether they are installed, and the contestants for each kind of work."""

from __future__ import annotations

import functools
import importlib
import os
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from fastbn.bench import _isa
from fastbn.doctor import DISTRIBUTIONS, installed_version
from fastbn.jit.isa import VARIABLE
from fastbn.parallel.cores import available_threads

# Each peer, and the packages that it needs.
PACKAGES = {
    "torch": ["torch"],
    "torch-compile": ["torch"],
    "jax": ["jax", "optax"],
    "onnxruntime": ["onnxruntime", "onnx"],
    "sklearn": ["sklearn"],
    "numpy": ["numpy"],
}

# By side and setting: a function that returns the contestant.
Makers = dict[tuple[str, str], Callable[[], Any]]


class PeerClass(NamedTuple):
    """The module and class of a contestant, and its arguments for each setting.

    Without settings, the settings are the numbers of threads.
    """

    module: str
    name: str
    settings: dict[str, dict[str, Any]] | None = None
    arguments: Mapping[str, Any] = types.MappingProxyType({})


ONE: dict[str, dict[str, Any]] = {"": {}}

# The contestants by kind of work. fastbn comes first, since other results are compared with its.
CLASSES: dict[str, dict[str, PeerClass]] = {
    "step": {
        "fastbn": PeerClass("_fastbn", "FastbnStepper", ONE),
        "numpy": PeerClass("_numpy", "NumpyStepper"),
        "torch": PeerClass("_torch", "TorchStepper"),
        "torch-compile": PeerClass("_torch", "TorchStepper", None, {"way": "compiled"}),
        "jax": PeerClass("_jax", "JaxStepper", {
            f"{way} {layout}": {"scan": way == "scan", "axis": axis}
            for layout, axis in (("NC", 0), ("CN", 1))
            for way in ("jit", "scan")
        }),
    },
    "calls": {
        "fastbn": PeerClass("_fastbn", "FastbnCaller", ONE),
        "torch": PeerClass("_torch", "TorchCaller"),
        "torch-compile": PeerClass("_torch", "TorchCaller", None, {"way": "compiled"}),
        "jax": PeerClass("_jax", "JaxCaller", {"jit NC": {"axis": 0}, "jit CN": {"axis": 1}}),
    },
    "predict": {
        "fastbn": PeerClass("_predict", "FastbnPredictor", ONE),
        "numpy": PeerClass("_predict", "NumpyPredictor"),
        "torch": PeerClass("_torch", "TorchPredictor"),
        "torch-compile": PeerClass("_torch", "TorchPredictor", None, {"way": "compiled"}),
        "onnxruntime": PeerClass("_onnx", "OnnxPredictor"),
    },
    "fit": {
        "fastbn": PeerClass("_sklearn", "FastbnFit", {
            "batch norm": {"batch_norm": True}, "plain": {"batch_norm": False},
        }),
        "sklearn": PeerClass("_sklearn", "SklearnFit"),
    },
    "batch norm": {
        "fastbn": PeerClass("_fastbn", "BatchNorm", {"out=": {"out": True}, "allocating": {}}),
        "numpy": PeerClass("_numpy", "BatchNorm", ONE),
        "torch": PeerClass("_torch", "BatchNorm"),
        "torch-compile": PeerClass("_torch", "BatchNorm", None, {"way": "compiled"}),
        "jax": PeerClass("_jax", "BatchNorm", {"jit": {}}),
    },
    "Adam": {
        "fastbn": PeerClass("_fastbn", "Adam", ONE),
        "numpy": PeerClass("_numpy", "Adam", ONE),
        "torch": PeerClass("_torch", "Adam"),
        "jax": PeerClass("_jax", "Adam", {"jit": {}}),
    },
    "z-score": {
        "fastbn": PeerClass("_fastbn", "Scale", ONE),
        "numpy": PeerClass("_numpy", "Scale", ONE),
        "sklearn": PeerClass("_sklearn", "Scale", ONE),
        "torch": PeerClass("_torch", "Scale"),
        "jax": PeerClass("_jax", "Scale", {"jit": {}}),
    },
    "PyTorch's batch norm": {
        "fastbn": PeerClass("_torch", "BatchNorm", None, {"way": "accelerated"}),
        "torch": PeerClass("_torch", "BatchNorm"),
        "torch-compile": PeerClass("_torch", "BatchNorm", None, {"way": "compiled"}),
    },
    "PyTorch's Adam": {
        "fastbn": PeerClass("_torch", "Adam", None, {"way": "accelerated"}),
        "torch": PeerClass("_torch", "Adam"),
    },
    "PyTorch's training step": {
        "fastbn": PeerClass("_torch", "TorchStepper", None, {"way": "accelerated"}),
        "torch": PeerClass("_torch", "TorchStepper"),
        "torch-compile": PeerClass("_torch", "TorchStepper", None, {"way": "compiled"}),
    },
}  # fmt: skip

NO_BATCH_NORM = {"sklearn": "has no batch norm"}
COMPILED_ADAM = {"torch-compile": "its fused Adam is compiled already"}
ONLY_PREDICTS = {"onnxruntime": "only predicts"}
REASONS: dict[str, dict[str, str]] = {
    "step": {**NO_BATCH_NORM, **ONLY_PREDICTS},
    "calls": {**NO_BATCH_NORM, **ONLY_PREDICTS},
    "predict": NO_BATCH_NORM,
    "batch norm": NO_BATCH_NORM,
    "Adam": {**COMPILED_ADAM, "sklearn": "has no function for it"},
    "PyTorch's Adam": COMPILED_ADAM,
}


def is_installed(peer: str) -> bool:
    """Tell whether the packages of a peer are installed."""
    return all(installed_version(package) for package in PACKAGES[peer])


def choose(names: str | None) -> list[str]:
    """Return the peers in a list with commas, or all that are installed if it is None."""
    if names is None:
        return [peer for peer in PACKAGES if is_installed(peer)]
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in PACKAGES:
            raise ValueError(f"against: expected some of {', '.join(PACKAGES)}, got {name!r:.200}")
        if not is_installed(name):
            needed = " ".join(DISTRIBUTIONS.get(package, package) for package in PACKAGES[name])
            raise ValueError(f"against: {name} is not installed: pip install {needed}")
    return chosen


def thread_counts() -> list[int]:
    """Return the numbers of threads to measure: one, and as many as there are."""
    return sorted({1, available_threads()})


def threads_of(count: int) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{count} thread{'s' if count > 1 else ''}"


def makers(kind: str, work: Any, peers: Collection[str], **ours: Any) -> Makers:
    """Return the contestants, fastbn's first; `ours` are more arguments for fastbn's."""
    found: Makers = {}
    for side, (module, name, settings, arguments) in CLASSES[kind].items():
        if side != "fastbn" and side not in peers:
            continue
        kind_of_side = getattr(importlib.import_module(f"fastbn.bench.{module}"), name)
        if settings is None:
            settings = {threads_of(count): {"threads": count} for count in thread_counts()}
        own = _isa.note(os.environ.get(VARIABLE), side)
        for setting, more in settings.items():
            given = {**arguments, **more, **(ours if side == "fastbn" else {})}
            found[side, ", ".join(filter(None, (setting, own)))] = functools.partial(
                kind_of_side, work, **given
            )
    return found


def absent(kind: str, peers: Collection[str]) -> dict[str, str]:
    """Return the peers that have no contestant for this work, and why."""
    return {peer: why for peer, why in REASONS.get(kind, {}).items() if peer in peers}
