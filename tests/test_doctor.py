"""`fastbn doctor`: what it finds, and its advice."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from cases import JIT_DISABLED

from fastbn import doctor
from fastbn.doctor import report
from fastbn.jit import compiler


@pytest.fixture(scope="module")
def facts():
    """Return the facts of a machine without problems."""
    return dataclasses.replace(
        report().facts,
        platform="Linux-6.1",
        cpu=doctor.Cpu("a processor", "x86_64", 4, 4, None),
        numba_threads=4,
        jit_disabled=False,
        cache=doctor.Cache("/cache", True, 3.0, 100),
        environment={},
    )


def test_facts_are_those_of_this_process(monkeypatch):
    import numba
    import numpy as np

    monkeypatch.setenv("OPENBLAS_VERBOSE", "0")
    monkeypatch.setenv("A_SECRET", "1")
    found = report().facts
    assert found.packages["numpy"] == np.__version__
    assert found.packages["numba"] == numba.__version__
    assert found.numba_threads == numba.config.NUMBA_NUM_THREADS
    assert found.jit_disabled == JIT_DISABLED
    assert 1 <= found.cpu.cores_allowed <= found.cpu.cores
    assert found.team_threads >= 1
    assert found.environment["OPENBLAS_VERBOSE"] == "0"
    assert "A_SECRET" not in found.environment


def test_each_package_is_in_its_extra():
    pyproject = pathlib.Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    for package, extra in doctor.PACKAGES.items():
        if extra is not None:
            name = doctor.DISTRIBUTIONS.get(package, package)
            assert any(line.startswith(name) for line in extras[extra]), package


def test_a_report_is_json():
    found = report()
    fields = {field.name for field in dataclasses.fields(found.facts)}
    values = json.loads(json.dumps(found.to_dict()))
    assert set(values) == fields | {"warnings", "notes"}
    assert values["cpu"]["cores"] == found.facts.cpu.cores


def test_a_report_starts_no_threading_layer_and_compiles_nothing():
    code = """
import threading, numba
from fastbn.doctor import report
from fastbn.kernels.batchnorm import batch_norm_forward_cn as kernel
report()
assert not getattr(kernel, "signatures", []), "compiled"
assert threading.active_count() == 1
try:
    numba.threading_layer()
except ValueError:
    print("none")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def test_a_folder_is_writable_if_a_file_can_be_made_in_it(tmp_path):
    assert doctor._is_writable(tmp_path)
    assert not doctor._is_writable(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="this system has no such modes")
@pytest.mark.skipif(JIT_DISABLED, reason="nothing is kept")
def test_a_cache_that_others_may_write_to(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_folder", lambda kernel: tmp_path)
    assert doctor._cache().problem is None
    tmp_path.chmod(0o777)
    (warning,) = [text for text in report().warnings if "others may write" in text]
    assert f"{tmp_path} (mode 777)" in warning


# -- advice ----------------------------------------------------------------------------------------


def test_a_good_machine_has_no_warnings(facts):
    assert list(doctor.warnings(facts)) == []
    assert list(doctor.notes(facts)) == []


CPU = {"name": "a", "architecture": "x86_64"}
HYBRID = {**CPU, "cores": 4, "cores_allowed": 4, "quota": None}
BAD = {
    "jit": ({"jit_disabled": True}, "NUMBA_DISABLE_JIT is set"),
    "no cache": ({"cache": doctor.Cache(None, False, 0.0, 0)}, "cannot be kept.*NUMBA_CACHE_DIR"),
    "read-only cache": ({"cache": doctor.Cache("/ro", False, 3.0, 9)}, "/ro cannot be written"),
    "cache of others": (
        {"cache": doctor.Cache("/c", True, 3.0, 9, "others may write to /c (mode 777)")},
        "others may write to /c .*not used.*NUMBA_CACHE_DIR",
    ),
    "limited": (
        {"environment": {"OMP_NUM_THREADS": "1"}},
        "OMP_NUM_THREADS set to 1: .*one of 4 cores",
    ),
    "numba threads": ({"numba_threads": 8}, "8 threads on 4 usable cores.*NUMBA_NUM_THREADS=4"),
    "affinity": (
        {"cpu": doctor.Cpu(**CPU, cores=4, cores_allowed=2, quota=None)},
        "4 threads on 2 usable cores",
    ),
    "quota": (
        {"cpu": doctor.Cpu(**CPU, cores=4, cores_allowed=4, quota=1.5)},
        "4 threads on 2 usable cores",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_problems_are_warnings(facts, change, message):
    found = list(doctor.warnings(dataclasses.replace(facts, **change)))
    assert any(re.search(message, sentence) for sentence in found), found


def test_a_compiler_that_is_off_is_not_told_about_its_cache(facts):
    off = dataclasses.replace(facts, jit_disabled=True, cache=doctor.Cache(None, False, 0.0, 0))
    (warning,) = doctor.warnings(off)
    assert "NUMBA_DISABLE_JIT" in warning


def test_one_thread_is_right_on_one_core(facts):
    one = doctor.Cpu(**CPU, cores=1, cores_allowed=1, quota=None)
    limited = dataclasses.replace(
        facts, cpu=one, numba_threads=1, environment={"OMP_NUM_THREADS": "1"}
    )
    assert list(doctor.warnings(limited)) == []


def test_a_process_on_fast_cores_alone_has_nothing_to_know(facts):
    fast = dataclasses.replace(facts, cpu=doctor.Cpu(**HYBRID, cores_fast=4))
    assert list(doctor.notes(fast)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": doctor.Cache("/cache", True, 0.0, 0)}, "the first training compiles"),
        ({"environment": {"NUMBA_CACHE_DIR": "/ro"}}, "kept in /cache instead"),
        ({"cpu": doctor.Cpu(**HYBRID, cores_fast=2)}, "2 of 4 cores are fast, and a team has at"),
        ({"cpu": doctor.Cpu(**HYBRID, cores_fast=0)}, "slow cores of this hybrid processor only"),
    ],
)
def test_facts_that_are_good_to_know_are_notes(facts, change, message):
    (note,) = doctor.notes(dataclasses.replace(facts, **change))
    assert message in note
