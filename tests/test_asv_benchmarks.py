"""The benchmarks for asv: each runs, in all its methods, and skips what a commit does not have."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import pathlib

import numba
import pytest
from cases import JIT_DISABLED

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python loops are not measured")

ROOT = pathlib.Path(__file__).parent.parent
MODULES = ("kernels", "loops", "memory", "optimizers", "startup", "tracking", "training")
KINDS = ("time_", "timeraw_", "peakmem_", "track_")
SLOW = {"FirstStepCold", "FirstStepWarm", "OverLimits"}  # whole processes, or large arrays


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("FASTBN_NUM_THREADS", "1")
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def classes():
    for name in MODULES:
        module = importlib.import_module(f"asv_benchmarks.{name}")
        for found in vars(module).values():
            if inspect.isclass(found) and found.__module__ == module.__name__:
                yield found


def methods(found):
    return [name for name in dir(found) if name.startswith(KINDS)]


def test_every_class_has_something_to_measure():
    found = list(classes())
    assert len(found) > 10
    bases = {"FirstStep", "Loops"}
    assert [one.__name__ for one in found if not methods(one) and one.__name__ not in bases] == []


def test_every_benchmark_runs_at_its_smallest_size():
    ran = 0
    for found in classes():
        if found.__name__ in SLOW:
            continue
        params = getattr(found, "params", ())
        smallest = [values[0] for values in params]
        assert len(getattr(found, "param_names", ())) == len(params)
        for name in methods(found):
            benchmark = found()
            if hasattr(benchmark, "setup"):
                benchmark.setup(*smallest)
            result = getattr(benchmark, name)(*smallest)
            ran += 1
            if name.startswith("track_"):
                assert 0 < result <= 100
            elif name.startswith("timeraw_"):
                compile(result, name, "exec")
    assert ran > 20


def test_parameters_are_literals():
    """asv shows and stores them by their text."""
    for found in classes():
        for values in itertools.chain.from_iterable(getattr(found, "params", ())):
            assert eval(repr(values)) == values


def test_what_a_commit_does_not_have_is_skipped():
    common = importlib.import_module("asv_benchmarks.common")
    assert callable(common.find("batch_norm"))
    for path in ("no_such_function", "no_such_module.function"):
        with pytest.raises(NotImplementedError, match=f"{path} is not in this commit"):
            common.find(path)
    with pytest.raises(NotImplementedError, match="threads"):
        common.limit_threads(100_000)


def test_the_configuration_names_what_is_there():
    config = json.loads((ROOT / "asv.conf.json").read_text())
    assert config["version"] == 1
    assert (ROOT / config["benchmark_dir"] / "__init__.py").exists()
    ignored = (ROOT / ".gitignore").read_text().split()
    for folder in ("env_dir", "results_dir", "html_dir"):
        assert config[folder].split("/")[0] + "/" in ignored
