"""The trial of threads, processes, caches of compiled kernels, and settings."""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from jobs import draw_job, train
from process_ways import WAYS
from trial import Trial

import fastbn

HERE = pathlib.Path(__file__).parent
SECONDS = 150  # time limit of a case

# Packages that some of the ways need.
NEEDED = {
    "dask": "distributed", "ray": "ray", "loky": "joblib", "torch_first": "torch",
    "torch_last": "torch",
}  # fmt: skip

LAYERS = {"workqueue": "workqueue", "omp": "omppool", "tbb": "tbbpool"}  # by numba's modules

# The package tbb puts its library here, where the loader does not look.
TBB = pathlib.Path(sys.prefix, "lib", "libtbb.so.12")


class Child:
    """A Python process in its own session, so that `kill` ends its children, too."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def output(self) -> str:
        """Wait until it ends without an error; return its output."""
        try:
            output, errors = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.process.args}") from None
        finally:
            self.kill()
        assert self.process.returncode == 0, f"{self.process.returncode}: {errors[-2000:]}"
        return output

    def kill(self) -> None:
        """Kill the process and its children."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def is_installed(module: str) -> bool:
    """Tell whether a module is installed; a folder with its name does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def has_layer(layer: str) -> bool:
    """Tell whether numba has this threading layer here."""
    if layer == "tbb" and not TBB.exists():
        return ctypes.util.find_library("tbb") is not None
    return is_installed(f"numba.np.ufunc.{LAYERS[layer]}")


def train_by(way: str, layer: str | None, rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Train random networks in one of `WAYS`, with this threading layer or a random one."""
    needed = NEEDED.get(way)
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
    child = Child(str(HERE / "process_ways.py"), way, json.dumps(jobs), **environment)
    digests = json.loads(child.output().splitlines()[-1])
    expected = [train(job) for job in jobs]
    assert len(digests) >= len(jobs)
    for i, digest in enumerate(digests):
        assert digest == expected[i % len(jobs)], f"other bits: {jobs[i % len(jobs)]}"
    return "right results"


# -- caches of compiled kernels --------------------------------------------------------------------

# Uses one kernel, which compiles in a second; `{before}` runs between import and use.
USE = """
import pathlib, shutil
import numpy as np
import fastbn.functional
{before}
rng = np.random.default_rng({seed})
W, b = fastbn.fold_batch_norm(rng.random((20, 30)), None, None, *rng.random((2, 20)))
print(W.tobytes().hex(), b.tobytes().hex())
"""


def use_kernel(seed: int, cache: pathlib.Path, before: str = "") -> Child:
    """Start a process that calls the kernel, with this cache folder."""
    return Child("-c", USE.format(before=before, seed=seed), NUMBA_CACHE_DIR=str(cache))


def check_kernel(seed: int, child: Child) -> None:
    """Wait for the process, and compare its result."""
    rng = np.random.default_rng(seed)
    W, b = fastbn.fold_batch_norm(rng.random((20, 30)), None, None, *rng.random((2, 20)))
    expected = [W.tobytes().hex(), b.tobytes().hex()]
    assert child.output().split() == expected, "wrong results"


def killed_compiler(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Kill a process while it compiles or writes; then two others use the folder at once."""
    seed = int(rng.integers(2**31))
    child = use_kernel(seed, folder)
    end = time.perf_counter() + rng.uniform(0.5, 4)
    while time.perf_counter() < end and not list(folder.rglob("*.nb*")):
        time.sleep(0.001)
    child.kill()
    child.process.communicate()
    for child in [use_kernel(seed, folder) for _ in range(2)]:
        check_kernel(seed, child)
    assert list(folder.rglob("*.nbc"))
    return "right results"


def vanished_cache(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Remove the folder between import and use; in half of the cases put a file in its place."""
    cache, seed = folder / "cache", int(rng.integers(2**31))
    before = f"shutil.rmtree({str(cache)!r})"
    if rng.random() < 0.5:
        before += f"; pathlib.Path({str(cache)!r}).touch()"
    check_kernel(seed, use_kernel(seed, cache, before))
    return "right results"


# -- settings --------------------------------------------------------------------------------------


def thread_settings(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Train with random settings of threads and a random threading layer."""
    job = draw_job(
        rng, sizes=[64, 128, 10], rows=2000, has_weight=False, patience=None, validated=False
    )
    job["fit"] |= {"batch_size": 100, "epochs": 20}
    settings = {
        name: str(rng.integers(1, 4))
        for name in ("FASTBN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
        if rng.random() < 0.5
    }
    settings["OPENBLAS_NUM_THREADS"] = str(rng.integers(1, 3))
    settings["NUMBA_THREADING_LAYER"] = ("omp", "workqueue")[rng.integers(2)]
    child = Child(str(HERE / "process_ways.py"), "settings", json.dumps([job]), **settings)
    assert json.loads(child.output()) == [train(job)], "wrong results"
    return "settings respected"


CASES: dict[str, Callable[[np.random.Generator, pathlib.Path], str]] = {
    **{f"threads, {layer}": functools.partial(train_by, "threads", layer) for layer in LAYERS},
    **{
        way: functools.partial(train_by, way, None)
        for way in WAYS
        if way not in ("threads", "settings")
    },
    **{case.__name__: case for case in (killed_compiler, vanished_cache, thread_settings)},
}


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Take the ways in turns, in a random order."""
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
    "In threads and processes, and with broken caches: right results or a clear error, no hang.",
    2 * len(CASES),
    cases,
)
