"""Ways to use fastbn in threads and processes: ``python process_ways.py WAY JOBS``.

Each way trains some jobs (JSON) and prints their digests in the order of the jobs, once or several
times.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from jobs import Job, data_of, fit, model_of, train
from thread_settings import settings

import fastbn

SECONDS = 100  # time limit of an answer
FORK = multiprocessing.get_context("fork")

Way = Callable[[list[Job]], list[str]]

X = np.random.default_rng(0).standard_normal((700, 300)).astype(np.float32)


def call_functions() -> bytes:
    """Call a function of the NumPy API that uses several threads."""
    return fastbn.batch_norm(X)[0].tobytes()


def train_and_call(job: Job) -> str:
    """Call the NumPy API, train, and call it again."""
    expected = call_functions()
    digest = train(job)
    assert call_functions() == expected
    return digest


# -- threads ---------------------------------------------------------------------------------------


def threads(jobs: list[Job]) -> list[str]:
    """Train each job in a thread, while two more threads call the NumPy API."""
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


def daemon(jobs: list[Job]) -> list[str]:
    """Let the process end while a daemon thread is training."""
    digests = [train(job) for job in jobs]
    endless = {"epochs": 10**6, "early_stopping": None}
    threading.Thread(target=train, args=jobs[:1], kwargs=endless, daemon=True).start()
    time.sleep(0.1)
    return digests


def dask(jobs: list[Job]) -> list[str]:
    """Train in threads of a Dask worker."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(threads_per_worker=3, **options) as cluster, Client(cluster) as client:
        digests: list[str] = client.gather(client.map(train_and_call, jobs, pure=False))
    return digests


def ray(jobs: list[Job]) -> list[str]:
    """Train in Ray's workers."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    remote = ray.remote(train)
    digests: list[str] = ray.get([remote.remote(job) for job in jobs], timeout=SECONDS)
    ray.shutdown()
    return digests


# -- processes -------------------------------------------------------------------------------------


def pool_of(method: str) -> Way:
    """Return a way that trains in the parent, then in a pool of multiprocessing."""

    def way(jobs: list[Job]) -> list[str]:
        for job in jobs:
            train_and_call(job)
        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map_async(train_and_call, jobs).get(SECONDS)

    return way


def loky(jobs: list[Job]) -> list[str]:
    """Train in joblib's processes."""
    import joblib

    train(jobs[0])
    work = joblib.delayed(train_and_call)
    digests: list[str] = joblib.Parallel(2, timeout=SECONDS)(work(job) for job in jobs)
    return digests


class Server:
    """A forked process that trains the jobs it receives."""

    def __init__(self, job: Job, before: Callable[[], object] = lambda: None) -> None:
        self.pipe, theirs = multiprocessing.Pipe()

        def serve() -> None:
            before()
            while (received := theirs.recv()) is not None:
                theirs.send(train_and_call(received))

        self.process = FORK.Process(target=serve, daemon=True)
        self.process.start()
        self.pipe.send(job)

    def answer(self) -> str:
        """Return the digest of the job that was sent."""
        assert self.pipe.poll(SECONDS), "a forked process does not answer"
        digest: str = self.pipe.recv()
        return digest

    def end(self) -> None:
        """Tell the process to end, and wait for it."""
        self.pipe.send(None)
        self.process.join()
        assert self.process.exitcode == 0


def prefork(jobs: list[Job]) -> list[str]:
    """Train in forked workers; kill each of them once, and fork another in its place."""
    train_and_call(jobs[0])
    servers = [Server(job) for job in jobs]
    digests = [server.answer() for server in servers]
    for turn, job in enumerate(jobs):
        for server, its_job in zip(servers, jobs, strict=True):
            server.pipe.send(its_job)
        servers[turn].process.kill()
        servers[turn].process.join()
        servers[turn] = Server(job)
        digests += [server.answer() for server in servers]
    for server in servers:
        server.end()
    return digests


def forks(jobs: list[Job]) -> list[str]:
    """Fork while another thread is training or loading its kernels."""
    model, over = model_of(jobs[0]), threading.Event()
    x, y, weight = data_of(jobs[0])
    endless: dict[str, Any] = {"epochs": 10**6, "early_stopping": None}
    endless["callbacks"] = [lambda *_: over.is_set()]
    thread = threading.Thread(target=fit, args=(jobs[0], model), kwargs=endless)

    def take_a_step() -> None:
        try:
            model.train_step(x, y, sample_weight=weight)
        except RuntimeError as error:  # the thread was training at the fork
            if "trained by another thread" not in str(error):
                raise

    thread.start()
    digests = []
    try:
        for turn in range(6):
            time.sleep(0.003 * 3**turn)
            server = Server(jobs[turn % len(jobs)], take_a_step)
            digests.append(server.answer())
            server.end()
    finally:
        over.set()
        thread.join()
    return digests


def after(use: Callable[[Job], object], way: Way) -> Way:
    """Return a way that calls `use` first."""

    def both(jobs: list[Job]) -> list[str]:
        use(jobs[0])
        return way(jobs)

    return both


def terminated_in_a_thread(jobs: list[Job]) -> list[str]:
    """End a process that trains in a second thread with SIGTERM; resume its checkpoint."""
    job = {**jobs[0], "patience": None, "fit": {**jobs[0]["fit"], "epochs": 300}}
    expected = train(job)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "checkpoint")
        options = {"checkpoint": path, "checkpoint_every": 7}
        thread = threading.Thread(target=train, args=(job,), kwargs=options)
        process = FORK.Process(target=thread.start, daemon=True)  # ends after the thread
        process.start()
        end = time.perf_counter() + SECONDS
        while not path.exists():
            assert time.perf_counter() < end, "no checkpoint is written"
            time.sleep(0.001)
        process.terminate()
        process.join()
        assert process.exitcode in (0, -signal.SIGTERM), process.exitcode
        assert train(job, checkpoint=path, resume=True) == expected
    return [train(job) for job in jobs]


def use_torch(job: Job) -> None:
    """Use PyTorch's threads."""
    import torch

    x = torch.randn(600, 600, requires_grad=True)
    torch.mm(x, x).relu().sum().backward()


def with_torch(jobs: list[Job]) -> list[str]:
    """Train and use modules of `fastbn.torch`, in this process and in forked ones."""
    import torch

    import fastbn.torch

    module, x = fastbn.torch.BatchNormLeakyReLU(300), torch.from_numpy(X)
    expected = module(x)

    def use_module() -> None:
        torch.set_num_threads(1)  # as PyTorch's own workers do
        assert torch.equal(module(x), expected)

    digests = [train_and_call(job) for job in jobs]
    for job in jobs:
        server = Server(job, use_module)
        digests.append(server.answer())
        server.end()
    return digests


WAYS: dict[str, Way] = {
    "threads": threads,
    "daemon": daemon,
    "dask": dask,
    "ray": ray,
    "fork": pool_of("fork"),
    "spawn": pool_of("spawn"),
    "forkserver": pool_of("forkserver"),
    "loky": loky,
    "prefork": prefork,
    "fork_while_training": after(train_and_call, forks),
    "fork_at_first_use": forks,
    "terminated_in_a_thread": terminated_in_a_thread,
    "torch_first": after(use_torch, after(train_and_call, with_torch)),
    "torch_last": after(train_and_call, after(use_torch, with_torch)),
    "settings": settings,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # a fork of a process with threads
    importlib.import_module("fastbn.model")
    print(json.dumps(WAYS[sys.argv[1]](json.loads(sys.argv[2]))))
