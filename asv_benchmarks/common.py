"""Shared by the benchmarks: access to functions that a commit may lack, threads and data."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError

# asv imports this once, and forks a process for each benchmark
with contextlib.suppress(ImportError):
    from fastbn.model import BatchNormMLP  # noqa: F401

# modules that know, or knew in earlier commits, whether their process was forked
FORKS = ["parallel.dispatch", "jit.compiler", "_jit"]

DTYPES = ["float32", "float64"]
THREADS = [1, 2]


# Paths under which other commits, earlier or later, have what the benchmarks find, by prefix.
MOVED = {
    "kernels.batchnorm.weighted_": "kernels.batchnorm_weighted.weighted_",
    "reference_mlp.": "reference.mlp.",
    "kernels.curves.curve_": "kernels.saturating.saturating_",
    "kernels.curves.": "kernels.saturating.",
    "kernels.saturating.saturating_": "kernels.elementwise.elementwise_",
    "kernels.saturating.": "kernels.elementwise.",
    "_openmp.": "parallel.openmp.",
    "parallel.threads.": "parallel.team.",
    "parallel.team.": "_team.",
    "kernels.gemm.pack_rows": "kernels.gemm.pack_panels",
}


def find(path: str) -> Any:
    """Return ``fastbn.<path>``; skip the benchmark if this commit does not have it."""
    known = path
    while known:
        module, _, name = f"fastbn.{known}".rpartition(".")
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
        others = (new + known[len(old) :] for old, new in MOVED.items() if known.startswith(old))
        known = next(others, "")
    raise NotImplementedError(f"fastbn.{path} is not in this commit")


def limit_threads(count: int) -> None:
    """Let fastbn use `count` threads; skip the benchmark if there are fewer cores.

    Nothing is restored, since every benchmark has its own process.
    """
    if count > numba.config.NUMBA_NUM_THREADS:
        raise NotImplementedError(f"{count} threads on fewer cores")
    numba.set_num_threads(count)
    os.environ["FASTBN_NUM_THREADS"] = str(count)
    # forked children compute serially, since the parent may have threads; here it has none
    for name in FORKS:
        module = sys.modules.get(f"fastbn.{name}")
        if hasattr(module, "_forked"):
            vars(module)["_forked"] = False


def call_first(*methods: Callable[[], None]) -> None:
    """Call the methods twice in `setup`, so that no sample includes what the first calls prepare.

    They compile, and a model keeps packed weights from its first prediction on.
    Skip the benchmark if the functions of this commit take other arguments.
    """
    for method in methods:
        try:
            method()
            method()
        except (TypeError, NumbaError) as error:
            raise NotImplementedError(f"this commit takes other arguments: {error}") from error


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Return normally distributed numbers, the same for every commit."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Benchmark:
    """Times its methods: asv takes the median of `repeat` samples in each of `rounds` processes."""

    timeout = 300.0
    sample_time = 0.02
    warmup_time = 0.05
    repeat = (3, 7, 1.0)
    rounds = 2
