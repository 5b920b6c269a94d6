"""Compare the numbers of threads that fastbn uses with those that the environment requests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from jobs import Job, train

import fastbn


def most_threads(count: Callable[[], int], function: Callable[[], Any]) -> tuple[Any, int]:
    """Return a call's result, and the largest number of additional threads."""
    over, counts = threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.0005):
            counts.append(count())

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = count()
    try:
        result = function()
    finally:
        over.set()
        watcher.join()
    return result, max(0, max(counts) - before)


def settings(jobs: list[Job]) -> list[str]:
    """Train and call the NumPy functions, count threads, and return the training's digest."""
    import threadpoolctl

    def blas() -> dict[str, int]:
        found = threadpoolctl.threadpool_info()
        return {
            pool["filepath"]: pool["num_threads"] for pool in found if pool["user_api"] == "blas"
        }

    (job,), environment, blas_before = jobs, dict(os.environ), blas()
    cores = len(os.sched_getaffinity(0))
    asked = {name: int(value) for name, value in environment.items() if "_NUM_THREADS" in name}
    train({**job, "fit": {**job["fit"], "epochs": 1}})  # the first use may start threads
    limits = [asked[name] for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS") if name in asked]
    allowed = asked.get("FASTBN_NUM_THREADS", min([cores, *limits]))
    allowed *= allowed > 1  # besides the caller
    for _ in range(20):  # repeat, since the watcher may not get a core in time
        digest, seen = most_threads(threading.active_count, lambda: train(job))
        assert seen <= allowed, (seen, allowed)
        if seen == allowed or "FASTBN_NUM_THREADS" not in asked:
            break
    else:
        raise AssertionError(f"{seen} threads where {allowed} were asked for")
    x = np.ones((700, 300))
    _, seen = most_threads(
        lambda: len(os.listdir("/proc/self/task")),
        lambda: [fastbn.batch_norm(x) for _ in range(9)],
    )
    pool = numba.config.NUMBA_NUM_THREADS
    assert pool == asked.get("NUMBA_NUM_THREADS", pool) == numba.get_num_threads()
    assert seen <= pool, (seen, pool)
    assert numba.threading_layer() == environment["NUMBA_THREADING_LAYER"]
    blas_after = blas()  # numba may have loaded SciPy's BLAS
    assert {name: blas_after[name] for name in blas_before} == blas_before, blas_after
    wanted = min(asked["OPENBLAS_NUM_THREADS"], cores)
    assert all(count == wanted for count in blas_after.values()), blas_after
    assert dict(os.environ) == environment
    return [digest]
