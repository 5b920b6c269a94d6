"""The scripts that inspect compiled kernels, and those that compare estimators."""

from __future__ import annotations

import importlib.util
import pathlib
import platform
import re
import subprocess
import sys

import numba
import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.parallel import team_size
from fastbn.parallel.costs import Costs

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_assembly_of_a_kernel(monkeypatch, capfd):
    """The loop vectorizes: the compiler says so, and its instructions are counted."""
    assembly = load("assembly")
    assembly.main([])
    listed = capfd.readouterr().out.split()
    assert {"optimizers.adam_values", "gemm.multiply", "statistics_cn.moments"} <= set(listed)
    state = np.ones((4, 50), np.float32)
    monkeypatch.setattr(assembly, "warm_up", lambda dtype: [fastbn.adam_step(*state, step=1)])
    for kernel in assembly.kernels().values():
        monkeypatch.setattr(kernel, "_cache", kernel._cache)  # restored after the test
    assembly.main(["optimizers.adam_values"])
    out, err = capfd.readouterr()
    assert out.startswith("optimizers.adam_values(")
    assert re.search(r"floating point: .*\d+ packed", out)
    if platform.machine() in ("x86_64", "AMD64"):
        assert "vectorized loop (vectorization width" in err
    with pytest.raises(SystemExit, match="KERNEL is a name"):
        assembly.main(["adam"])


def test_instructions_are_counted_by_their_registers():
    count = load("assembly").count
    lines = [
        "\tvfmadd213ps\t%zmm1, %zmm2, %zmm3",
        "\tvaddss\t%xmm1, %xmm2, %xmm3",
        "\tmovq\t%rax, 8",
    ]
    assert count("\n".join(lines)) == "1 packed zmm, 1 scalar xmm"
    assert count("\tfmla\tv0.4s, v1.4s, v2.4s\n\tfadd\ts0, s1, s2") == "1 packed, 1 scalar"
    assert count("\tret") == "none"


@pytest.mark.skipif(sys.platform != "linux", reason="perf is Linux's")
def test_perf_gets_the_names_of_kernels(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, numpy as np, fastbn\n"
        "fastbn.batch_norm(np.ones((50, 7), np.float32))\n"
        "print(sys.argv[1:])\n"
    )
    command = [sys.executable, str(SCRIPTS / "perf_map.py"), str(program), "--epochs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['--epochs', '3']"
    path = pathlib.Path(re.search(r"functions in (\S+)", done.stderr)[1])
    lines = [line.split(" ", 2) for line in path.read_text().splitlines()]
    path.unlink()
    addresses = [int(address, 16) for address, _, _ in lines]
    assert addresses == sorted(addresses)
    assert all(0 < int(size, 16) <= 1 << 16 for _, size, _ in lines)
    names = {name for _, _, name in lines}
    assert "fastbn.kernels.batchnorm_nc.batch_norm_forward_nc" in names


@pytest.fixture
def one_thread_of_pytorch():
    """On networks this small, two threads would mostly wait."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread_of_pytorch")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("data", ["iris", "diabetes"])
def test_the_table_of_estimators(data):
    """Three networks learn the same data about equally well: classification and regression."""
    script = load("estimators")
    arrays = script.DATA[data](return_X_y=True)
    line = script.compare_scores(data, *arrays, 2, 1, {**script.SMALL, "max_iter": 30})
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[0] == data
    scores = [float(cell.split(" ±")[0]) for cell in cells[1::2]]
    assert len(scores) == 3
    assert min(scores) > (0.05 if data == "diabetes" else 0.88)
    assert all(float(cell.removesuffix(" s")) > 0 for cell in cells[2::2])


@pytest.mark.usefixtures("one_thread_of_pytorch")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
@pytest.mark.parametrize("kind", ["two classes", "three classes", "three labels"])
def test_the_table_of_rare_classes(monkeypatch, kind, way):
    """Three networks learn a weighted rare class about equally well."""
    script = load("estimators")
    monkeypatch.setitem(script.RARE, "max_iter", 4)
    line = script.compare_rare(kind, way, 0.05, 50, 1)
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[:4] == [kind, way, "5%", "50"]
    aucs = [float(cell) for cell in cells[4:7]]
    assert min(aucs) > 0.85
    assert float(cells[7]) == pytest.approx(aucs[0] - max(aucs[1:]), abs=0.0011)


def test_the_table_of_many_cores(monkeypatch, capsys):
    """The simulation says that it is one, and measures what the machine has cores for."""
    script = load("many_cores")
    monkeypatch.setattr(script, "STEPS", [script.STEPS[0]])
    monkeypatch.setattr(script, "BATCH_NORMS", [script.BATCH_NORMS[0]])
    monkeypatch.setattr(script, "ADAMS", [script.ADAMS[0]])
    monkeypatch.setattr(script, "available_threads", lambda: 1)
    monkeypatch.setattr(script, "measured_costs", lambda: Costs(1e-5, 1e-7, 1e-10))
    monkeypatch.setattr(team_size, "measured_costs", script.measured_costs)
    script.main()
    out = capsys.readouterr().out
    assert "simulation" in out
    assert "Costs measured on 1 cores" in out
    steps, kernels = out.split("Measured, in us:")
    names = ["threads", "---", "batch norm 32x32 NC", "batch norm 32x32 CN", "Adam 1 k"]
    rows = [line.strip("| ").split("|") for line in kernels.split("\n")[2:7]]
    assert [first.strip() for first, _ in rows] == names
    assert all(float(row[1]) > 0 for row in rows[2:])
    lines = steps.splitlines()[-1 - len(script.THREADS) : -1]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert [int(row[0]) for row in cells] == list(script.THREADS)
    assert [row[5] == "-" for row in cells] == [False] + 6 * [True]
    assert all(float(row[1]) > 0 for row in cells)
    assert cells[0][1:5] == [cells[0][1], cells[0][1], "1.00", "0 of 8"]
    assert cells[-1][4] in ("6 of 8", "8 of 8")  # the first layer may have 64 pieces


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_other_bits_with_several_threads_are_an_error(monkeypatch):
    script = load("many_cores")

    class Counter:
        def run(self, count):
            self.threads = numba.get_num_threads()

        def results(self):
            return [self.threads]

    monkeypatch.setattr(script, "sizes", lambda: [1, 2])
    with pytest.raises(AssertionError, match="other bits with 2 threads"):
        script.measure(Counter)


def test_every_tile_has_one_member():
    script = load("many_cores")
    for work in script.STEPS:
        layout = script.model_of(work).layout
        alone = [sum(counts) for _, counts in script.shares(work, layout, 1)]
        for size in (2, 5, 16, 64):
            found = list(script.shares(work, layout, size))
            assert all(len(counts) == size for _, counts in found)
            assert [sum(counts) for _, counts in found] == alone
            assert sum(flops for flops, _ in found) == layout.gemm_flops(work.batch)


def test_the_model_knows_the_largest_shares_of_the_kernels():
    """Else it would choose threads that have no work."""
    script = load("many_cores")
    for work in script.STEPS:
        layout = script.model_of(work).layout
        model = layout.team_work(work.batch, np.dtype(np.float32))
        for size in range(1, 65):
            found = script.shares(work, layout, size)
            busiest = sum(flops * max(counts) / sum(counts) for flops, counts in found)
            ratio = busiest / team_size.busiest_flops(model, size)
            assert 0.99 < ratio < 1.25, (work.name, size, ratio)


def test_the_table_of_pools(monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # spinning threads would slow down others
    lines = load("torch_pools").compare(1, 3)
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[2:]]
    assert [tuple(row[:2]) for row in cells] == [
        ("PyTorch alone", "PyTorch"),
        ("PyTorch first", "PyTorch"),
        ("PyTorch first", "accelerated"),
        ("fastbn first", "PyTorch"),
        ("fastbn first", "accelerated"),
    ]
    assert all(float(cell.replace(",", "")) > 0 for row in cells for cell in row[2:])
