"""Ways to use fastbn in threads of one process, for process_ways.py."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from training_jobs import Job, data_of, digest_of, model_of, train

import fastbn

SECONDS = 100  # that an answer may take

BUSY = "trained by another thread"

X = np.random.default_rng(0).standard_normal((700, 300)).astype(np.float32)


def call_functions() -> bytes:
    """Call a function of the NumPy API that is for several threads."""
    return fastbn.batch_norm(X)[0].tobytes()


def train_and_call(job: Job) -> str:
    """Train beside calls of the NumPy API."""
    expected = call_functions()
    digest = train(job)
    assert call_functions() == expected
    return digest


def threads(jobs: list[Job]) -> list[str]:
    """A thread a job, while two more call the NumPy functions."""
    expected, over = call_functions(), threading.Event()
    ready = threading.Barrier(len(jobs) + 2)

    def call() -> None:
        ready.wait(SECONDS)
        while not over.is_set():
            assert call_functions() == expected

    def work(job: Job) -> str:
        ready.wait(SECONDS)
        return train(job)

    with ThreadPoolExecutor(len(jobs) + 2) as pool:
        calls = [pool.submit(call) for _ in range(2)]
        try:
            digests = list(pool.map(work, jobs))
        finally:
            over.set()
        for call_done in calls:
            call_done.result(SECONDS)
    layer = os.environ.get("NUMBA_THREADING_LAYER")
    assert layer in (None, numba.threading_layer()), numba.threading_layer()
    return digests


def one_model(jobs: list[Job]) -> list[str]:
    """Threads that train one model: those that come too late are told so."""
    model, (x, y, weight) = model_of(jobs[0]), data_of(jobs[0])
    taken, refused = [], []

    def work(_: int) -> None:
        try:
            model.partial_fit(x, y, batch_size=jobs[0]["batch"], sample_weight=weight)
            taken.append(1)
        except RuntimeError as error:
            refused.append(str(error))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
    assert len(taken) + len(refused) == 64
    assert all(BUSY in error for error in refused), refused
    plain = model_of(jobs[0])
    for _ in taken:
        plain.partial_fit(x, y, batch_size=jobs[0]["batch"], sample_weight=weight)
    assert digest_of(plain, x) == digest_of(model, x)
    return [train(job) for job in jobs]


def daemon(jobs: list[Job]) -> list[str]:
    """The process ends while a thread is training."""
    digests = [train(job) for job in jobs]
    endless = {**jobs[0], "epochs": 10**6}
    threading.Thread(target=train, args=(endless,), daemon=True).start()
    time.sleep(0.1)
    return digests


def dask(jobs: list[Job]) -> list[str]:
    """Threads of a Dask worker."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(threads_per_worker=3, **options) as cluster, Client(cluster) as client:
        digests: list[str] = client.gather(client.map(train_and_call, jobs, pure=False))
    return digests


def ray(jobs: list[Job]) -> list[str]:
    """Ray's workers."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    remote = ray.remote(train)
    digests: list[str] = ray.get([remote.remote(job) for job in jobs], timeout=SECONDS)
    ray.shutdown()
    return digests
