"""The benchmarks for asv: each runs, in all its methods, and skips what a commit does not have."""

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


def report(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_report_is_markdown_worst_first_with_the_noise(tmp_path):
    pytest.importorskip("asv")
    if not (ROOT / ".git").exists():
        pytest.skip("asv needs the repository")
    results = ("--results", ROOT / "asv_benchmarks" / "history")
    done = report("8537e050", "9d7fa09c", "--machine", "epyc-2", *results)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {5}
    assert set(rows[1][0].strip()) == {"-"}, "the line below a table's head in Markdown"
    ratios = [row[3].strip(" ~") for row in rows[2:]]
    numbers = [float(ratio) for ratio in ratios if ratio != "n/a"]
    assert len(numbers) > 150
    assert numbers == sorted(numbers, reverse=True)
    assert sum("±" in row[1] and "±" in row[2] for row in rows) > 100
    for arguments, message in (
        (("9d7fa09c", "9d7fa09c", "--results", tmp_path / "no"), "expected a folder"),
        (("no-such-commit", "9d7fa09c", *results), "asv compare: "),
    ):
        done = report(*arguments)
        assert done.returncode != 0
        assert message in done.stderr
