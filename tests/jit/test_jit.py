"""How kernels are compiled, cached and announced."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cases import JIT_DISABLED
from numba.core.compiler_lock import global_compiler_lock
from own_process import ANNOUNCED, python_process, run_python

from fastbn.jit import listeners


@pytest.mark.compiles
def test_compiling_is_announced_once_and_only_when_it_happens(tmp_path):
    """Listeners are told, and the logger says what is compiled."""
    first, second = (python_process(ANNOUNCED, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.stdout.strip() == "1"
    assert "INFO:fastbn:compiling" in first.stderr
    assert "float32" in first.stderr
    assert "float64" in first.stderr
    assert second.stdout.strip() == "0", "the second process compiled again"
    assert "INFO" not in second.stderr


COMPUTED = """
    import hashlib, numpy as np, fastbn
    from fastbn.kernels import batchnorm_nc as nc
    from fastbn.kernels.statistics_nc import moments_nc_parallel
    from fastbn.parallel import dispatch
    x = np.random.default_rng(0).normal(1, 3, (668, 96)).astype(np.float32)
    if {chunk_first}:
        nc.chunk_moments_nc(x, 0, *np.empty((3, 96), np.float32))
    for dispatch.PARALLEL_ELEMENTS in (0, 1 << 62):
        mean, var = fastbn.batch_statistics(x)
        print(*(hashlib.sha256(a.tobytes()).hexdigest() for a in (mean, var)))
    (compiled,) = moments_nc_parallel.overloads.values()
    if moments_nc_parallel.stats.cache_misses:  # it was compiled, and not loaded
        functions = compiled.library._final_module.functions
        for name in {{f.linkage.name for f in functions
                      if "gufunc" in f.name and not f.is_declaration}}:
            print("linkage", name)
"""


@pytest.mark.compiles
@pytest.mark.skipif(JIT_DISABLED, reason="of compiled functions")
def test_bits_do_not_depend_on_what_was_compiled_or_loaded_when(tmp_path):
    """Processes that compile into one folder at once do not change them either.

    Before, all kernels that contained another kernel, or the body of a parallel loop, used a single
    copy of it.
    """

    def lines(chunk_first):
        code = COMPUTED.format(chunk_first=chunk_first)
        return run_python(code, NUMBA_CACHE_DIR=str(tmp_path)).splitlines()

    with ThreadPoolExecutor(2) as pool:
        found = [line for each in pool.map(lines, (False, False)) for line in each]
    linkages = {line for line in found if line.startswith("linkage")}
    assert linkages == {"linkage internal"}
    results = [line for line in found if line not in linkages]
    for chunk_first in (False, True, True):  # loaded, next to a new kernel, loaded
        results += lines(chunk_first)
    assert len(results) == 10
    assert len(set(results)) == 1, results


@pytest.mark.compiles
@pytest.mark.skipif(JIT_DISABLED, reason="of compiled functions")
def test_settings_of_numba_are_part_of_the_key_of_the_cache(tmp_path):
    """Numba itself would give all processes the code of the first one, with its settings."""
    settings = {"NUMBA_OPT": "0", "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_BOUNDSCHECK": "1"}
    told = [*({name: value} for name, value in settings.items()), {}]
    for compiles in ("1", "0"):
        for each in told:
            calls = run_python(ANNOUNCED, NUMBA_CACHE_DIR=str(tmp_path), **each).strip()
            assert calls == compiles, each


INTERRUPTED = """
    import signal, numpy as np
    from numba.core.codegen import CPUCodeLibrary
    class Timeout(Exception): pass
    def raise_timeout(number, frame):
        raise Timeout(number)
    if {number} != signal.SIGINT:  # which has a handler
        signal.signal({number}, raise_timeout)
    handler = signal.getsignal({number})
    take = CPUCodeLibrary._object_compiled_hook.__func__
    compiled, raised = 0, []
    def raise_and_take(*args):  # the compiler, which knows no exceptions, calls it
        global compiled
        compiled += 1
        if compiled == attempt:
            raised.append(attempt)
            signal.raise_signal({number})
        return take(*args)
    CPUCodeLibrary._object_compiled_hook = classmethod(raise_and_take)
    import fastbn
    x = np.random.default_rng(0).normal(1, 3, (33, 7)).astype(np.float32)
    attempt = seen = 0
    while attempt == len(raised):  # a signal in the n-th function that the n-th attempt compiles
        attempt += 1
        compiled = 0
        try:
            mean, var = fastbn.batch_statistics(x)
        except Timeout as error:
            assert error.args == ({number},)
            seen += 1
        except KeyboardInterrupt:
            seen += 1
    kept = signal.getsignal({number}) is handler
    print(len(raised), seen, kept and np.allclose(var, x.var(axis=0)))
"""


@pytest.mark.compiles
@pytest.mark.skipif(JIT_DISABLED, reason="of compiled functions")
@pytest.mark.parametrize("name", ["SIGINT", "SIGALRM", "SIGTERM"])
def test_a_signal_while_compiling_breaks_nothing(tmp_path, name):
    """Numba itself would lose the exception and later say that it has no compiled object."""
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    code = INTERRUPTED.format(number=int(getattr(signal, name)))
    raised, seen, right = run_python(code, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert int(raised) == int(seen) >= 3
    assert right == "True"


# This code records which kernels a process needs, compiled before or not.
ASKED = """
    from fastbn.kernels.gemm import multiply
    Cache, asked = type(multiply._cache), {}
    load_overload = Cache.load_overload
    def note_and_load(cache, sig, context):
        asked[f"{cache._py_func.__module__}.{cache._py_func.__qualname__}{sig}"] = True
        return load_overload(cache, sig, context)
    Cache.load_overload = note_and_load
"""

WARM_UP = """
    import signal
    from fastbn.cli._app import app
    class Press(dict):
        def __setitem__(self, kernel, value):
            if ".train_steps(" in kernel and not self:  # a fit has taken over the signals
                super().__setitem__(kernel, value)
                signal.raise_signal(signal.SIGINT)
    asked = Press()
    app(["warmup"])
"""


@pytest.mark.skipif(JIT_DISABLED, reason="of compiled functions")
def test_ctrl_c_ends_a_warm_up():
    pytest.importorskip("typer")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ASKED + WARM_UP)], capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr == "fastbn: interrupted\n"
    assert result.stdout.splitlines()[-1] == "training and prediction, float32"


def test_a_listener_is_called_once_for_several_kernels():
    calls = []
    with listeners.on_compile(lambda: calls.append(1)):
        listeners.announce(test_ctrl_c_ends_a_warm_up, "float32")
        listeners.announce(test_ctrl_c_ends_a_warm_up, "float64")
    listeners.announce(test_ctrl_c_ends_a_warm_up, "float64")
    assert calls == [1]


# Code that needs the kernels that warm_up compiles, with other data.
EVERYTHING = """
    import numpy as np, fastbn
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((70_000, 3)), rng.integers(0, 4, 70_000)
    for options in ({}, {"batch_norm": False, "optimizer": "sgd", "dropout": 0.5}):
        for scaling in (None, "zscore", "minmax"):
            model = fastbn.BatchNormMLP((3, 9, 4), input_normalization=scaling, **options)
            model.fit(
                X[:500], y[:500], epochs=2, batch_size=64, sample_weight=rng.random(500)
            )
            model.partial_fit(X[:37], y[:37])
            model.predict(X.astype(np.float32))
    for x, layout in ((X, "NC"), (X.T, "CN"), (X.reshape(-1, 3, 7, 1), "NC")):
        x = x.astype(np.float32)
        mean, var = fastbn.batch_statistics(x, layout=layout)
        a, mean, rstd = fastbn.batch_norm(x, layout=layout, activation="relu", out=x)
        fastbn.batch_norm_backward(a, x, None, None, mean, rstd, layout=layout)
        fastbn.batch_norm_inference(x, mean, var, layout=layout)
    fastbn.softmax_cross_entropy(X.astype(np.float32), y % 3, label_smoothing=0.1)
    param, grad, m, v = np.ones((4, 700_000), np.float32)
    fastbn.adam_step(param, grad, m, v, step=3, decoupled=True, max_norm=1.0)
    fastbn.min_max_scale(X.astype(np.float32))
    fastbn.standardize(X.astype(np.float32), mean=[0.0] * 3, std=[1.0] * 3)
    print(*asked, sep="\\n")
"""

# The same for kernels that work on PyTorch's tensors.
TENSORS = """
    import torch, fastbn.torch
    x = torch.randn(700, 300, requires_grad=True)
    for source in (x, x.t(), x.view(100, 300, 7)):
        module = fastbn.torch.BatchNormLeakyReLU(source.shape[1])
        module(source).sum().backward()
        with torch.no_grad():
            module.eval()(source)
        fastbn.torch.AdamW(module.parameters()).step()
    print(*asked, sep="\\n")
"""


WARMING = """
    import os
    if hasattr(os, "sched_setaffinity"):  # on one core, as containers are built
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    from fastbn.warmup import warm_up
    print(*warm_up("float32"), sep="\\n")
    print(*asked, sep="\\n")
"""


@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_warming_up_leaves_nothing_to_compile():
    warmed = run_python(ASKED + WARMING).splitlines()
    assert "batch norm, float32" in warmed
    asked = run_python(ASKED + EVERYTHING).splitlines()
    if importlib.util.find_spec("torch"):
        asked += run_python(ASKED + TENSORS).splitlines()
    assert len(set(asked)) > 20
    assert set(asked) <= set(warmed), "something was left to compile"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")
def test_a_fork_waits_for_a_thread_that_compiles():
    """The child would have the compiler's lock, but not the thread that releases it."""
    importlib.import_module("fastbn.jit.numba_internals")  # makes forks wait
    held, leave = threading.Event(), threading.Event()

    def compile_something():
        with global_compiler_lock:
            held.set()
            leave.wait(30)

    thread = threading.Thread(target=compile_something)
    thread.start()
    assert held.wait(30)
    timer = threading.Timer(0.05, leave.set)
    timer.start()
    child = os.fork()
    if child == 0:
        os._exit(0 if global_compiler_lock._lock.acquire(timeout=30) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    timer.join()
    with global_compiler_lock:
        pass


UNLOCKED_IMPORTS = """
    import sys
    import numpy as np
    import fastbn.model.model
    from numba.core.compiler_lock import global_compiler_lock

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if not global_compiler_lock.is_locked():
                print(name)

    x, y = np.random.default_rng(0).random((60, 5)), np.arange(60) % 3
    sys.meta_path.insert(0, Finder())
    model = fastbn.BatchNormMLP((5, 7, 3), input_normalization="zscore")
    model.fit(x, y, epochs=1, batch_size=30, validation_data=(x, y))
"""


def test_a_first_fit_imports_only_while_forks_wait():
    """A child that is forked while a thread imports would wait for the import forever."""
    assert run_python(UNLOCKED_IMPORTS) == ""


SAME_BITS = """
    import numpy as np, fastbn
    rng = np.random.default_rng(0)
    x = rng.standard_normal((128, 784)).astype(np.float32)
    model = fastbn.BatchNormMLP((784, 64, 10))
    for _ in range(3):
        model.train_step(x, np.arange(128) % 10)
    import hashlib
    print(hashlib.sha256(model.params.tobytes()).hexdigest())
"""


MEAN_LOSS = """
    import numpy as np, fastbn
    x = np.random.default_rng(0).standard_normal((40_000, 1))
    model = fastbn.BatchNormMLP((1, 2), dtype="float64")  # sums of float32 would be exact
    history = model.fit(x, np.arange(40_000) % 2, epochs=8, batch_size=2)
    print(*(loss.hex() for loss in history.loss))
"""


def test_the_mean_of_many_losses_does_not_depend_on_the_threads_of_a_blas():
    assert len({run_python(MEAN_LOSS, OPENBLAS_NUM_THREADS=n) for n in ("1", "2")}) == 1


def test_the_same_bits_in_every_process():
    bits = {run_python(SAME_BITS, FASTBN_NUM_THREADS=n).strip() for n in ("1", "2", "3")}
    assert len(bits) == 1


ENVIRONMENT = """
    import os
    os.environ.pop("OPENBLAS_NUM_THREADS", None)
    before = dict(os.environ)
    import numpy as np, fastbn, fastbn.functional
    model = fastbn.BatchNormMLP((3, 2))
    model.fit(np.eye(3), np.arange(3) % 2, epochs=1, batch_size=3)
    fastbn.batch_norm(np.ones((700, 300)))
    print(dict(os.environ) == before)
"""


def test_no_variable_of_the_environment_is_set():
    assert run_python(ENVIRONMENT).strip() == "True"
