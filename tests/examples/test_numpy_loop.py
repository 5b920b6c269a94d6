"""The stages of examples/numpy_loop.py train alike, and docs/numpy.md shows its code."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "numpy_loop.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("numpy_loop", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_stage_trains_alike(example, rng):
    x = rng.standard_normal((300, 784), dtype=np.float32)
    labels = rng.integers(0, 10, 300)
    stages = dict(example.runs(x, labels, 100))
    assert list(stages) == [*example.STAGES, example.MODEL]
    model = stages.pop(example.MODEL)()
    losses = {name: [*run(), *run()] for name, run in stages.items()}
    plain = losses.pop("NumPy")
    assert plain[-1] < 0.8 * plain[0]
    for name, others in losses.items():
        np.testing.assert_allclose(others, plain, rtol=2e-4, err_msg=name)
    net = example.Net()
    example.train(net, x, labels, 100, example.NUMPY)
    for (name, mine), theirs in zip(model.named_parameters(), net.params, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4, err_msg=name)


def test_it_prints_a_line_for_each_stage(example):
    command = [sys.executable, str(SCRIPT), "--samples", "200", "--batch", "100", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == [*example.STAGES, example.MODEL]


def test_the_documentation_shows_the_code_that_runs():
    source, page = SCRIPT.read_text(), (ROOT / "docs" / "numpy.md").read_text()
    shown = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.S)]
    functions = [
        part.strip() for block in shown for part in block.split("\n\n\n") if "def " in part
    ]
    assert len(functions) == 9
    times = re.findall(r"([\d,]+) microseconds", page)
    assert len(times) == 5, "one after each stage"
    for function in functions:
        assert function in source
