"""Ways to use fastbn in threads and processes: ``python process_ways.py WAY JOBS``.

Each trains some jobs (JSON) and prints their digests, the i-th that of the i-th job, from the first
one again where there are more.
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
from typing import Any

from thread_ways import (
    BUSY,
    SECONDS,
    X,
    daemon,
    dask,
    one_model,
    ray,
    threads,
    train_and_call,
)
from training_jobs import Job, data_of, model_of, train


def pool_of(method: str) -> Callable[[list[Job]], list[str]]:
    """Return the way by a pool of multiprocessing, after the parent has computed."""

    def way(jobs: list[Job]) -> list[str]:
        for job in jobs:
            train_and_call(job)
        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map_async(train_and_call, jobs).get(SECONDS)

    return way


def loky(jobs: list[Job]) -> list[str]:
    """joblib's processes."""
    import joblib

    train(jobs[0])
    work = joblib.delayed(train_and_call)
    digests: list[str] = joblib.Parallel(2, timeout=SECONDS)(work(job) for job in jobs)
    return digests


class Server:
    """A forked process that trains what it is sent."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                before()
                while (job := theirs.recv()) is not None:
                    theirs.send(train_and_call(job))
                code = 0
            finally:
                os._exit(code)

    def answer(self) -> str:
        """Return the digest of the job that was sent."""
        assert self.pipe.poll(SECONDS), "a forked process does not answer"
        digest: str = self.pipe.recv()
        return digest

    def end(self) -> None:
        """Let it end by itself."""
        self.pipe.send(None)
        assert os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]) == 0


def prefork(jobs: list[Job]) -> list[str]:
    """A server that computes, forks, and forks again for a worker that was killed."""
    train_and_call(jobs[0])
    servers = [Server() for _ in jobs]
    digests = []
    for turn in range(3):
        for server, job in zip(servers, jobs, strict=True):
            server.pipe.send(job)
        victim = turn % len(jobs)
        os.kill(servers[victim].process, signal.SIGKILL)
        os.waitpid(servers[victim].process, 0)
        servers[victim] = Server()
        servers[victim].pipe.send(jobs[victim])
        digests += [server.answer() for server in servers]
    for server in servers:
        server.end()
    return digests


def fork_while_training(jobs: list[Job]) -> list[str]:
    """Forks while another thread is in the middle of a fit."""
    train_and_call(jobs[0])
    return forks_beside(jobs)


def fork_at_first_use(jobs: list[Job]) -> list[str]:
    """Forks while another thread loads its kernels."""
    return forks_beside(jobs)


def forks_beside(jobs: list[Job]) -> list[str]:
    """Fork at some moments of another thread's training."""
    model, (x, y, weight) = model_of(jobs[0]), data_of(jobs[0])
    fit = {"epochs": 10**6, "batch_size": jobs[0]["batch"], "sample_weight": weight}
    over = threading.Event()

    def is_over(*_: Any) -> bool:
        return over.is_set()

    thread = threading.Thread(target=lambda: model.fit(x, y, callbacks=[is_over], **fit))

    def take_a_step() -> None:
        try:
            model.train_step(x, y, sample_weight=weight)
        except RuntimeError as error:  # it was being trained, and stays so here
            if BUSY not in str(error):
                raise

    thread.start()
    digests = []
    try:
        for turn in range(6):
            time.sleep(0.003 * 3**turn)
            server = Server(take_a_step)
            server.pipe.send(jobs[turn % len(jobs)])
            digests.append(server.answer())
            server.end()
    finally:
        over.set()
        thread.join()
    return digests


def fork_in_a_callback(jobs: list[Job]) -> list[str]:
    """A callback of a fit with a checkpoint has processes, and ends them."""
    context = multiprocessing.get_context("fork")

    def callback(*_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            process = context.Process(target=time.sleep, args=(SECONDS,))
            process.start()
            time.sleep(0.1)
            os.kill(process.pid, number)
            process.join(20)
            assert process.exitcode, f"a forked process does not hear {number!r}"

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "checkpoint")
        return [train(job, checkpoint=path, callbacks=[callback]) for job in jobs]


def terminated_in_a_thread(jobs: list[Job]) -> list[str]:
    """SIGTERM ends a process that trains in a second thread; its checkpoint is there to resume."""
    job = {**jobs[0], "epochs": 300}
    expected = train(job)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "checkpoint")
        process = os.fork()
        if process == 0:
            options = {"checkpoint": path, "checkpoint_every": 7}
            thread = threading.Thread(target=train, args=(job,), kwargs=options)
            thread.start()
            thread.join()
            os._exit(0)
        end = time.perf_counter() + SECONDS
        while not path.exists():
            assert time.perf_counter() < end, "no checkpoint is written"
            time.sleep(0.001)
        os.kill(process, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code in (0, -signal.SIGTERM), code
        assert train(job, checkpoint=path, resume=True) == expected
    return [train(job) for job in jobs]


def torch_first(jobs: list[Job]) -> list[str]:
    """PyTorch has its threads, then fastbn is used, then forked."""
    use_torch()
    train_and_call(jobs[0])
    return with_torch(jobs)


def torch_last(jobs: list[Job]) -> list[str]:
    """The other way round."""
    train_and_call(jobs[0])
    use_torch()
    return with_torch(jobs)


def use_torch() -> None:
    """Let PyTorch compute on its threads."""
    import torch

    x = torch.randn(600, 600, requires_grad=True)
    torch.mm(x, x).relu().sum().backward()


def with_torch(jobs: list[Job]) -> list[str]:
    """Train in this process and in forked ones, beside modules on PyTorch's threads."""
    import torch

    import fastbn.torch

    module, x = fastbn.torch.BatchNormLeakyReLU(300), torch.from_numpy(X)
    expected = module(x)

    def use_module() -> None:
        torch.set_num_threads(1)  # as PyTorch's own workers do
        assert torch.equal(module(x), expected)

    digests = [train_and_call(job) for job in jobs]
    for job in jobs:
        server = Server(use_module)
        server.pipe.send(job)
        digests.append(server.answer())
        server.end()
    return digests


WAYS: dict[str, Callable[[list[Job]], list[str]]] = {
    "threads": threads,
    "one_model": one_model,
    "daemon": daemon,
    "dask": dask,
    "ray": ray,
    "fork": pool_of("fork"),
    "spawn": pool_of("spawn"),
    "forkserver": pool_of("forkserver"),
    "loky": loky,
    "prefork": prefork,
    "fork_while_training": fork_while_training,
    "fork_at_first_use": fork_at_first_use,
    "fork_in_a_callback": fork_in_a_callback,
    "terminated_in_a_thread": terminated_in_a_thread,
    "torch_first": torch_first,
    "torch_last": torch_last,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # a fork of a process with threads
    importlib.import_module("fastbn.model")
    print(json.dumps(WAYS[sys.argv[1]](json.loads(sys.argv[2]))))
