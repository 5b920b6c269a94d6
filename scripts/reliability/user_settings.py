"""Settings in a user's environment, as seen in a process that trains: ``user_settings.py JOB``."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from children import HERE, run_child
from training_jobs import Job, draw_job, train

# A training long enough for its threads to be counted.
LONG = {"sizes": [64, 128, 10], "rows": 2000, "batch": 100, "epochs": 20, "has_weight": False}


def thread_settings(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Draw numbers of threads and a threading layer."""
    job = {**draw_job(rng), **LONG}
    settings = {
        name: str(rng.integers(1, 4))
        for name in ("FASTBN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
        if rng.random() < 0.5
    }
    settings["OPENBLAS_NUM_THREADS"] = str(rng.integers(1, 3))
    settings["NUMBA_THREADING_LAYER"] = ("omp", "workqueue")[rng.integers(2)]
    output = run_child(str(HERE / "user_settings.py"), json.dumps(job), **settings)
    assert output.split() == [train(job)], "wrong results"
    return "settings respected"


def no_compiler(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Without the compiler, the same numbers to rounding."""
    seed = int(rng.integers(2**31))
    code = f"""
import numpy as np, fastbn
from fastbn.kernels.batchnorm import fold
x = np.random.default_rng({seed}).standard_normal((6, 3))
losses = [fastbn.BatchNormMLP((3, 4, 2), seed=9).train_step(x, np.arange(6) % 2)]
print(hasattr(fold, "py_func"), *losses)
"""
    compiled, loss = run_child("-c", code, NUMBA_DISABLE_JIT="0").split()
    plain, other = run_child("-c", code, NUMBA_DISABLE_JIT="1").split()
    assert (compiled, plain) == ("True", "False")
    assert np.isclose(float(loss), float(other), rtol=1e-5), (loss, other)
    return "settings respected"


WAYS: list[Callable[[np.random.Generator, pathlib.Path], str]] = [thread_settings, no_compiler]


def most_threads(function: Callable[[], Any]) -> tuple[Any, int]:
    """Return a call's result, and how many threads more than before were there at once."""
    over, most = threading.Event(), [0]

    def tasks() -> int:
        return len(os.listdir("/proc/self/task"))

    def watch() -> None:
        while not over.wait(0.0005):
            most[0] = max(most[0], tasks())

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = tasks()
    try:
        result = function()
    finally:
        over.set()
        watcher.join()
    return result, max(0, most[0] - before)


def observe(job: Job) -> None:
    """Train, and compare what is seen with what the environment says."""
    import numba
    import threadpoolctl

    import fastbn

    def blas_threads() -> dict[str, int]:
        found = threadpoolctl.threadpool_info()
        return {
            pool["filepath"]: int(pool["num_threads"])
            for pool in found
            if pool["user_api"] == "blas"
        }

    environment, blas = dict(os.environ), blas_threads()
    cores = len(os.sched_getaffinity(0))
    wanted = {
        name: int(os.environ[f"{name}_NUM_THREADS"])
        for name in ("FASTBN", "NUMBA", "OMP", "OPENBLAS")
        if f"{name}_NUM_THREADS" in os.environ
    }
    train({**job, "epochs": 1})  # what is loaded first may start threads
    limits = [wanted[name] for name in ("NUMBA", "OMP") if name in wanted]
    allowed = wanted.get("FASTBN", min([cores, *limits]))
    allowed *= allowed > 1  # the caller's own
    for _ in range(20):  # the watcher may not get a core in time
        digest, threads = most_threads(lambda: train(job))
        assert threads <= allowed, (threads, allowed)
        if threads == allowed or "FASTBN" not in wanted:
            break
    else:
        raise AssertionError(f"{threads} threads where {allowed} were asked for")
    x = np.ones((700, 300))
    _, threads = most_threads(lambda: [fastbn.batch_norm(x) for _ in range(9)])
    pool = numba.config.NUMBA_NUM_THREADS
    assert pool == wanted.get("NUMBA", pool)
    assert numba.get_num_threads() == pool
    assert threads <= pool, (threads, pool)
    assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"]
    after = blas_threads()  # numba may have loaded SciPy's, beside NumPy's
    assert {name: after[name] for name in blas} == blas, (blas, after)
    assert all(count == min(wanted["OPENBLAS"], cores) for count in after.values()), after
    assert dict(os.environ) == environment
    print(digest)


if __name__ == "__main__":
    observe(json.loads(sys.argv[1]))
