"""The benchmarks for asv: all methods run, and skip what a commit does not have."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import math
import pathlib
import subprocess
import sys

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
            if found.__name__ == "Accuracy":
                assert 0 < result <= 100
            elif name.startswith("track_"):
                assert math.isfinite(result)
            elif name.startswith("timeraw_"):
                compile(result, name, "exec")
    assert ran > 20


def test_parameters_are_literals():
    """asv shows them, and stores results under their text."""
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


def asv(tmp_path, *arguments):
    """Run asv with the results that come with the project."""
    pytest.importorskip("asv")
    if not (ROOT / ".git").exists():
        pytest.skip("asv needs the repository")
    config = json.loads((ROOT / "asv.conf.json").read_text())
    config |= {"repo": str(ROOT), "results_dir": str(ROOT / "asv_benchmarks" / "history")}
    config |= {"benchmark_dir": str(ROOT / "asv_benchmarks"), "env_dir": str(tmp_path / "env")}
    path = tmp_path / "asv.conf.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "asv", *arguments, "--config", str(path)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_asv_finds_nothing_wrong(tmp_path):
    done = asv(tmp_path, "check", "-E", "existing")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout


def test_the_history_is_published(tmp_path):
    done = asv(tmp_path, "publish", "--html-dir", str(tmp_path / "html"))
    assert done.returncode == 0, done.stdout + done.stderr
    index = json.loads((tmp_path / "html" / "index.json").read_text())
    assert len(index["benchmarks"]) > 30
    assert sorted(index["params"]["machine"]) == ["epyc-2", "epyc-zen5-2"]
    found = json.loads((tmp_path / "html" / "regressions.json").read_text())["regressions"]
    assert len(found) > 0
    graphs = [path.read_text() for path in tmp_path.rglob("training.Steps.time_steps.json")]
    assert any(json.loads(graph) for graph in graphs)


@pytest.mark.parametrize("machine", ["epyc-2", "epyc-zen5-2"])
def test_the_history_has_ten_commits_of_this_project(machine):
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository's commits")
    history = ROOT / "asv_benchmarks" / "history"
    commits = [path.name[:8] for path in history.glob(f"{machine}/*-*.json")]
    assert len(commits) >= 10
    command = ["git", "-C", str(ROOT), "log", "--format=%H"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [commit for commit in commits if f"\n{commit}" not in f"\n{known}"] == []
