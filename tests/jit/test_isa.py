"""The instruction set that kernels are compiled for can be limited, and is reported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from llvmlite import binding

from fastbn.jit import isa

on_x86 = pytest.mark.skipif(not isa.IS_X86, reason="levels of x86-64 processors")


def run(code, level):
    """Run Python limited to a level; return its exit status and what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, isa.VARIABLE: level},
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@on_x86
@pytest.mark.parametrize("level", isa.LEVELS)
def test_a_level_holds_for_the_process_and_its_children(level):
    features = binding.get_host_cpu_features()
    if not all(features.get(feature) for feature in isa.LEVELS[level][1]):
        pytest.skip(f"this processor cannot run {level}")
    code = """
import os, subprocess, sys
import fastbn.jit.compiler
from fastbn.jit import isa
import numba
print(isa.level(), numba.config.CPU_NAME)
if len(sys.argv) == 1:
    del os.environ[isa.VARIABLE]
    print(subprocess.check_output([sys.executable, "-c", sys.stdin.read(), "child"], text=True))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", code], input=code, env={**environment, isa.VARIABLE: level},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [level, isa.LEVELS[level][0]] * 2


@on_x86
def test_an_unknown_level_is_refused():
    status, output = run("import fastbn.jit.compiler", "avx3")
    assert status == 1
    assert "FASTBN_ISA: expected sse2, avx2, avx512, got 'avx3'" in output


@on_x86
def test_a_level_that_the_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setenv(isa.VARIABLE, "avx2")
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"sse2": True, "avx": True})
    with pytest.raises(ValueError, match="expected a level of this processor, got avx2: no sse3"):
        isa.limit()


def test_elsewhere_there_are_no_levels(monkeypatch):
    monkeypatch.setenv(isa.VARIABLE, "avx2")
    monkeypatch.setattr(isa, "IS_X86", False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ValueError, match="expected no value on aarch64, got 'avx2'"):
        isa.limit()
    monkeypatch.setattr(isa, "IS_ARM", True)
    assert isa.level() == "neon"


def test_no_limit_changes_nothing(monkeypatch):
    monkeypatch.delenv(isa.VARIABLE, raising=False)
    before = dict(os.environ)
    isa.limit()
    assert dict(os.environ) == before


def test_bench_holds_peers_to_every_level():
    from fastbn.bench import _isa

    assert set(_isa._VALUES) == set(isa.LEVELS)
    found = _isa.environment("avx2")
    assert found[isa.VARIABLE] == "avx2"
    assert found["ATEN_CPU_CAPABILITY"] == "avx2"
    assert found["XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2"
    assert found["TORCHINDUCTOR_CPP_MARCH"] == "haswell"
    assert _isa.note("avx2", "torch") == _isa.note("avx2", "torch-compile") == ""
