"""The trial of threads, processes, shared and broken caches, and settings."""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

import broken_caches
import numpy as np
import user_settings
from children import HERE, run_child
from training_jobs import draw_job, train
from trial import Trial

Case = Callable[[np.random.Generator, pathlib.Path], str]

# Ways of process_ways.py, and what each needs that may be missing.
WAYS = {
    "threads": None,
    "one_model": None,
    "daemon": None,
    "dask": "distributed",
    "ray": "ray",
    "fork": None,
    "spawn": None,
    "forkserver": None,
    "loky": "joblib",
    "prefork": None,
    "fork_while_training": None,
    "fork_at_first_use": None,
    "fork_in_a_callback": None,
    "terminated_in_a_thread": None,
    "torch_first": "torch",
    "torch_last": "torch",
}

LAYERS = {"workqueue": "workqueue", "omp": "omppool", "tbb": "tbbpool"}  # and numba's modules

# TBB's library comes with the package of that name, where no loader looks for it.
TBB = pathlib.Path(sys.prefix, "lib", "libtbb.so.12")


def is_installed(module: str) -> bool:
    """Tell whether a module is there; a folder of its name is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def has_layer(layer: str) -> bool:
    """Tell whether numba has a threading layer here."""
    if layer == "tbb" and not TBB.exists():
        return ctypes.util.find_library("tbb") is not None
    return is_installed(f"numba.np.ufunc.{LAYERS[layer]}")


def train_by(way: str, layer: str | None, rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Train drawn nets in a way, under a drawn threading layer if none is given."""
    needed = WAYS[way]
    if needed is not None and not is_installed(needed):
        return f"left out: no {needed} here"
    layer = layer or str(rng.choice([name for name in LAYERS if has_layer(name)]))
    if not has_layer(layer):
        return f"left out: no {layer} here"
    jobs = [draw_job(rng) for _ in range(8 if way == "threads" else 3)]
    environment = {"NUMBA_THREADING_LAYER": layer}
    if TBB.exists():
        environment["LD_LIBRARY_PATH"] = str(TBB.parent)
    if rng.random() < 0.75:
        environment["FASTBN_NUM_THREADS"] = str(rng.integers(1, 4))
    script = str(HERE / "process_ways.py")
    digests = json.loads(run_child(script, way, json.dumps(jobs), **environment).splitlines()[-1])
    expected = [train(job) for job in jobs]
    assert len(digests) >= len(jobs)
    for i, digest in enumerate(digests):
        assert digest == expected[i % len(jobs)], f"other bits: {jobs[i % len(jobs)]}"
    return "right results"


CASES: dict[str, Case] = {
    **{f"threads, {layer}": functools.partial(train_by, "threads", layer) for layer in LAYERS},
    **{way: functools.partial(train_by, way, None) for way in WAYS if way != "threads"},
    **{case.__name__: case for case in broken_caches.WAYS + user_settings.WAYS},
}


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Take the ways in turns, in an order that is drawn."""
    names = np.random.default_rng(seed).permutation(sorted(CASES))
    for i in range(count):
        name = str(names[i % len(names)])
        own = folder / str(i)
        own.mkdir()
        try:
            yield CASES[name](np.random.default_rng([seed, i]), own)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


TRIAL = Trial(
    "processes",
    "In threads, processes and beside broken caches: right results or a clear error, and an end.",
    2 * len(CASES),
    cases,
)
