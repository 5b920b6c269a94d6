"""The peers: which there are, which are installed, and what each has for a piece of work."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastbn.bench._kernel_work import AdamWork, BatchNormWork, Runner, ScaleWork
from fastbn.bench._module_work import ModuleWork
from fastbn.bench._step_work import Stepper, StepWork
from fastbn.doctor import DISTRIBUTIONS, installed_version
from fastbn.parallel.cores import available_threads

# Each peer, and the packages that it needs.
PACKAGES = {
    "torch": ["torch"],
    "torch-compile": ["torch"],
    "jax": ["jax", "optax"],
    "sklearn": ["sklearn"],
    "numpy": ["numpy"],
}

NO_BATCH_NORM = "has no batch norm"

# What fastbn with one thread is called, which is no contestant.
ALONE = "one thread"

# A contestant's side and setting, and what makes it.
Makers = dict[tuple[str, str], Callable[[], Any]]


def is_installed(peer: str) -> bool:
    """Tell whether a peer can take part."""
    return all(installed_version(package) for package in PACKAGES[peer])


def choose(names: str | None) -> list[str]:
    """Return the peers of a list with commas; None takes all that are installed."""
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


def absent(peers: Iterable[str], reasons: Mapping[str, str]) -> dict[str, str]:
    """Return why some of the peers do not take part."""
    return {peer: why for peer, why in reasons.items() if peer in peers}


def thread_counts() -> list[int]:
    """Return one thread and all of them."""
    return sorted({1, available_threads()})


def threads_of(count: int) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{count} thread{'s' if count > 1 else ''}"


def steppers(peers: Iterable[str], work: StepWork) -> Makers:
    """Return those that take training steps."""
    from fastbn.bench._fastbn import FastbnStepper

    found: Makers = {("fastbn", ""): lambda: FastbnStepper(work)}
    for count in thread_counts():
        setting = threads_of(count)
        if "numpy" in peers:
            from fastbn.bench._numpy import NumpyStepper

            found["numpy", setting] = functools.partial(NumpyStepper, work, count)
        if "torch" in peers or "torch-compile" in peers:
            from fastbn.bench._torch import TorchStepper
        if "torch" in peers:
            found["torch", setting] = functools.partial(TorchStepper, work, count, False)
        if "torch-compile" in peers:
            found["torch-compile", setting] = functools.partial(TorchStepper, work, count, True)
    if "jax" in peers:
        from fastbn.bench._jax import JaxStepper

        for layout in ("NC", "CN"):
            for way in ("jit", "scan"):
                found["jax", f"{way} {layout}"] = functools.partial(
                    JaxStepper, work, way == "scan", layout == "CN"
                )
    return found


def kernels(peers: Iterable[str], kind: str, work: Any) -> Makers:
    """Return the peers that do the work of one kernel: the class `kind` of each one's module."""

    def maker(module: str, *arguments: Any) -> Callable[[], Runner]:
        contestants = importlib.import_module(f"fastbn.bench.{module}")
        return functools.partial(getattr(contestants, kind), work, *arguments)

    found: Makers = {}
    if "numpy" in peers:
        found["numpy", ""] = maker("_numpy")
    if "sklearn" in peers and kind == "Scale":
        found["sklearn", ""] = maker("_sklearn")
    for count in thread_counts():
        if "torch" in peers:
            found["torch", threads_of(count)] = maker("_torch", count)
        if "torch-compile" in peers and kind == "BatchNorm":
            found["torch-compile", threads_of(count)] = maker("_torch", count, True)
    if "jax" in peers:
        found["jax", "jit"] = maker("_jax")
    return found


def batch_norms(peers: Iterable[str], work: BatchNormWork, layout: str) -> Makers:
    """Return those that have batch norm. The peers' arrays are sample-major, as they like them."""
    from fastbn.bench import _fastbn

    ours: Makers = {
        ("fastbn", "out="): lambda: _fastbn.BatchNorm(work, layout, True),
        ("fastbn", "allocating"): lambda: _fastbn.BatchNorm(work, layout, False),
    }
    return ours | kernels(peers, "BatchNorm", work)


def adams(peers: Iterable[str], work: AdamWork) -> Makers:
    """Return those that have Adam."""
    from fastbn.bench import _fastbn

    ours: Makers = {("fastbn", ""): lambda: _fastbn.Adam(work)}
    return ours | kernels(peers, "Adam", work)


def scales(peers: Iterable[str], work: ScaleWork) -> Makers:
    """Return those that scale inputs."""
    from fastbn.bench import _fastbn

    ours: Makers = {("fastbn", ""): lambda: _fastbn.Scale(work)}
    return ours | kernels(peers, "Scale", work)


def torch_modules(peers: Iterable[str], work: ModuleWork) -> Makers:
    """Return PyTorch's batch norm, as it is, compiled, and accelerated."""
    from fastbn.bench._torch_modules import Module

    ways = {"fastbn": "accelerated", "torch": "eager", "torch-compile": "compiled"}
    return _at_thread_counts(
        peers, {side: functools.partial(Module, work, way=way) for side, way in ways.items()}
    )


def torch_optimizers(peers: Iterable[str], work: AdamWork) -> Makers:
    """Return PyTorch's fused Adam, and `fastbn.torch`'s."""
    from fastbn.bench._torch import Adam
    from fastbn.bench._torch_modules import FastAdam

    makers = {"fastbn": FastAdam, "torch": Adam}
    return _at_thread_counts(
        peers, {side: functools.partial(kind, work) for side, kind in makers.items()}
    )


def torch_loops(peers: Iterable[str], work: StepWork) -> Makers:
    """Return PyTorch's training loop, as it is, compiled, and accelerated."""
    from fastbn.bench._torch import TorchStepper
    from fastbn.bench._torch_modules import AcceleratedStepper

    return _at_thread_counts(
        peers,
        {
            "fastbn": functools.partial(AcceleratedStepper, work),
            "torch": functools.partial(TorchStepper, work, compiled=False),
            "torch-compile": functools.partial(TorchStepper, work, compiled=True),
        },
    )


def _at_thread_counts(peers: Iterable[str], makers: Mapping[str, Callable[..., Any]]) -> Makers:
    """Return fastbn's contestant, then those of the peers, each at every number of threads."""
    return {
        (side, threads_of(count)): functools.partial(make, threads=count)
        for side, make in makers.items()
        if side == "fastbn" or side in peers
        for count in thread_counts()
    }


def copies(size: int) -> dict[str, Runner]:
    """Return ways to copy so many bytes, by name."""
    from fastbn.bench._fastbn import Copy

    return {
        f"copy{', past the caches' if past else ''}, {threads_of(count)}": Copy(size, count, past)
        for count in thread_counts()
        for past in (False, True)
    }


def alone(work: StepWork) -> dict[str, Stepper]:
    """Return fastbn with one thread, where it may take more."""
    from fastbn.bench._fastbn import FastbnStepper

    return {ALONE: FastbnStepper(work, threads=1)} if available_threads() > 1 else {}


def bare_products(work: StepWork) -> dict[str, Stepper]:
    """Return the bare matrix products of a step, by name."""
    from fastbn.bench._fastbn import BareGemms

    return {
        f"bare products, {threads_of(count)}": BareGemms(work, count) for count in thread_counts()
    }
