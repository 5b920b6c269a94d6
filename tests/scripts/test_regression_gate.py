"""The gate catches a slowdown, passes the same commit, and fails if nothing is measured."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest
from cases import JIT_DISABLED

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(JIT_DISABLED, reason="Python loops are not measured"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the gate forks"),
]

# Benchmarks of two kernels that compile quickly.
BENCH = r"Products.time_(multiply|pack_rows)\(\(32, 6000\).*float32"

# One of them.
PRODUCT = r"Products.time_multiply\(\(32, 6000\).*float32"

# Multiply three of the ten panels of a product twice.
CALL = (
    "                    multiply_tile(TILE_ROWS, 2, a, i, k, right, p, out, column, rows, add)\n"
)
SLOWER = CALL + "                    if p % 10 < 3:\n    " + CALL


def git(folder, *arguments):
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone whose last commit makes products slower by three tenths."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository's commits")
    folder = tmp_path_factory.mktemp("scratch") / "fastbn"
    git(ROOT, "clone", "--quiet", str(ROOT), str(folder))
    git(folder, "tag", "before")
    gemm = folder / "fastbn" / "kernels" / "gemm.py"
    assert gemm.read_text().count(CALL) == 1
    gemm.write_text(gemm.read_text().replace(CALL, SLOWER))
    git(folder, "commit", "--quiet", "--all", "--message", "slower")
    git(folder, "tag", "slower")
    return folder


def gate(clone, *arguments):
    command = [sys.executable, str(clone / "scripts" / "regression_gate.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True)


def load_gate(folder, monkeypatch):
    """Return the script of that folder as a module."""
    path = folder / "scripts" / "regression_gate.py"
    spec = importlib.util.spec_from_file_location("gate", path)
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gate", found)
    spec.loader.exec_module(found)
    return found


def row_of(done, name):
    (line,) = (line for line in done.stdout.splitlines() if name in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def until(is_so, *arguments):
    """Return the first of three runs with this result, because other programs run meanwhile."""
    for _ in range(3):
        done = gate(*arguments)
        if is_so(done):
            break
    return done


@pytest.mark.timing
def test_a_slowdown_of_three_tenths_is_caught(clone, tmp_path):
    report = tmp_path / "report.md"

    def is_caught(done):
        product = row_of(done, "Products.time_multiply")
        return done.returncode == 1 and product[5] == "slower" and 1.2 < float(product[3]) < 1.5

    arguments = clone, "before", "slower", "--bench", BENCH, "--markdown", report
    done = until(is_caught, *arguments)
    assert is_caught(done), done.stdout + done.stderr
    assert "2 measured, 1 slower" in done.stdout
    lines = report.read_text().splitlines()
    assert "time_multiply" in lines[2], "worst first"
    ratios = [float(line.split("|")[4]) for line in lines[2:]]
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.timing
def test_the_way_back_is_faster(clone):
    done = until(
        lambda done: row_of(done, "Products.time_multiply")[5] == "faster",
        clone, "slower", "before", "--bench", PRODUCT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert row_of(done, "Products.time_multiply")[5] == "faster"


@pytest.mark.timing
def test_the_same_commit_is_never_slower_in_ten_runs(clone, monkeypatch, capsys):
    """Run the command once, and its functions nine times, every second time in new processes."""
    done = gate(clone, "before", "before", "--bench", PRODUCT)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "1 measured, 0 slower" in done.stdout
    module = load_gate(clone, monkeypatch)
    sides = {name: module.Side("before") for name in ("base", "head")}
    names = [name for name in sides["head"].benchmarks if re.search(PRODUCT, name)]
    try:
        for run in range(1, 10):
            if run % 2 == 0:
                for side in sides.values():
                    side.close()
                    side.start()
            found = module.compare(sides, names, 3, 1.2)
            code = module.judge(found)
            output = capsys.readouterr()
            table = "\n".join(module.markdown(found, "before", "before"))
            assert code == 0, f"run {run}: {table}{output.out}{output.err}"
            assert "1 measured, 0 slower" in output.out
    finally:
        for side in sides.values():
            side.close()


def test_folders_stand_for_revisions(clone):
    done = gate(clone, "before", ".", "--bench", r"time_pack_rows\(\(64, 64\), 'float32'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 measured" in done.stdout


def test_it_fails_loudly_where_nothing_is_measured(clone, tmp_path):
    done = gate(clone, "before", "slower", "--bench", "no such benchmark")
    assert done.returncode == 2
    assert "nothing was measured" in done.stderr
    only_numpy = gate(clone, "before", "slower", "--bench", r"NumpyControl.time_copy\(\(128")
    assert only_numpy.returncode == 2
    assert "nothing was measured" in only_numpy.stderr
    lost = gate(clone, "before", "acff4fd", "--bench", r"time_multiply\(\(64, 64\), 'float32'")
    assert lost.returncode == 2
    assert "no longer measured: loops.Products.time_multiply" in lost.stderr
    gone = gate(clone, "before", "no-such-revision")
    assert gone.returncode == 2
    assert "expected a revision or a folder with fastbn" in gone.stderr
    broken = tmp_path / "fastbn"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('broken')\n")
    fallen = gate(clone, "before", tmp_path, "--bench", BENCH)
    assert fallen.returncode == 2
    assert "the process that measures it has ended" in fallen.stderr


def test_a_commit_that_raises_is_reported(clone):
    gemm = clone / "fastbn" / "kernels" / "gemm.py"
    before = gemm.read_text()
    gemm.write_text(
        before.replace("def pack_panels(b, panels, first, last):\n", "def pack_panels(b):\n")
    )
    try:
        done = gate(clone, "before", ".", "--bench", r"time_pack_rows\(\(64, 64\), 'float32'")
    finally:
        gemm.write_text(before)
    assert done.returncode == 2
    assert "no longer measured" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1"], "--threshold: expected a ratio above 1"),
        (["--rounds", "0"], "--rounds: expected at least 1"),
        (["--bench", "("], "--bench: expected a regular expression"),
        (["--markdown", "nowhere/table.md"], "No such file or directory: 'nowhere/table.md'"),
        (["--markdown", "."], "Is a directory: '.'"),
    ],
)
def test_mistakes(arguments, message):
    done = gate(ROOT, "HEAD", "HEAD", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.fixture
def module(monkeypatch):
    return load_gate(ROOT, monkeypatch)


@pytest.mark.parametrize(
    ("head", "slower"),
    [
        ([1.3, 1.3, 1.3], True),
        ([1.3, 1.12, 1.25], True),
        ([1.3, 1.05, 1.3], False),  # one round of three is too fast
        ([1.3] * 7 + [1.0] * 2, True),  # two of nine are too fast
        ([1.3] * 6 + [1.0] * 3, False),
        ([1.1, 1.1, 1.1], False),
        ([0.5, 0.6, 0.5], False),
    ],
)
def test_what_counts_as_slower(module, head, slower):
    compared = module.Compared("a", base=[1.0] * len(head), head=head)
    assert compared.is_slower(1.2) is slower


def test_a_slowdown_has_to_hold_when_measured_again(module, monkeypatch):
    rounds = iter([1.5] * 3 + [1.0] * 6)

    def take_round(compared, sides):
        compared.base.append(1.0)
        compared.head.append(next(rounds))
        return True

    monkeypatch.setattr(module, "take_round", take_round)
    (compared,) = module.compare({}, ["a"], 3, 1.2)
    assert (compared.verdict, len(compared.ratios)) == ("", 9)
    rounds = iter([1.5] * 9)
    (compared,) = module.compare({}, ["a"], 3, 1.2)
    assert compared.verdict == "slower"
    assert module.judge([compared]) == 1


def test_controls_that_move_tell_of_the_machine(module, capsys):
    ours = module.Compared("kernels.BatchNorm", base=[1.0], head=[1.0])
    control = module.Compared("kernels.NumpyControl", base=[1.0], head=[2.0], verdict="slower")
    assert module.judge([ours, control]) == 2
    assert "the machine is not quiet: kernels.NumpyControl" in capsys.readouterr().err
