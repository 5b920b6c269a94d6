"""The kernels, tests and benchmarks that docs/batchnorm.md names exist."""

from __future__ import annotations

import ast
import pathlib
import re

import numpy as np
import pytest

from fastbn.kernels import batchnorm, batchnorm_cn, batchnorm_nc, running, statistics_cn

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "batchnorm.md").read_text(encoding="utf-8")

# A cell of a table: a file, and functions or methods in it.
CELL = re.compile(r"\| `(\w+\.py)`:([^|]*)")
FOLDERS = [ROOT / name for name in ("fastbn/kernels", "tests/functional", "asv_benchmarks")]


def cells():
    """Return the names in the tables, by file."""
    found = {}
    for name, names in CELL.findall(TEXT):
        (file,) = (folder / name for folder in FOLDERS if (folder / name).is_file())
        found.setdefault(file, set()).update(re.findall(r"`([\w.]+)`", names))
    return found


def test_every_name_of_the_tables_is_in_its_file():
    assert len(cells()) >= 12
    for file, names in cells().items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                there |= {f"{node.name}.{member.name}" for member in node.body
                          if isinstance(member, ast.FunctionDef)}  # fmt: skip
        assert names
        assert names <= there, file


def test_every_equation_leads_to_a_test_and_a_benchmark():
    """It leads to a kernel of each layout, too; this is a row of the first table."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| [")]
    for equation in ("forward", "backward", "inference"):
        (row,) = (row for row in rows if row.startswith(f"| [{equation}]"))
        names = {
            name for _, found in CELL.findall(row) for name in re.findall(r"`([\w.]+)`", found)
        }
        kernels = {f"batch_norm_{equation}_{layout}" for layout in ("cn", "nc")}
        assert names == {*kernels, f"test_{equation}", f"BatchNorm.time_{equation}"}
        anchor = re.search(r"\(#([\w-]+)\)", row)[1]
        assert f"## {anchor.replace('-', ' ')}\n" in TEXT.lower()


def test_every_file_exists():
    files = re.findall(r"`((?:fastbn|functional|kernels|tests|asv_benchmarks)/[\w/]+\.py)`", TEXT)
    assert len(files) > 8
    for file in files:
        assert (ROOT / file).is_file() or (ROOT / "fastbn" / file).is_file(), file


def test_kernels_name_the_document():
    folder = ROOT / "fastbn" / "kernels"
    files = [*folder.glob("batchnorm*.py"), *folder.glob("statistics_*.py")]
    assert len(files) > 7
    for file in files:
        assert "docs/batchnorm.md" in file.read_text(encoding="utf-8").split('"""')[1], file.name


def test_the_public_module_has_the_kernels_of_all_files():
    """`fastbn.kernels.batchnorm`, which users import, contains no copies."""
    homes = [batchnorm_cn, batchnorm_nc, running, statistics_cn]
    flat = {"forward", "backward"}
    for name in batchnorm.__all__:
        if not flat & set(name.split("_")):
            assert any(getattr(batchnorm, name) is vars(home).get(name) for home in homes), name
    assert {"batch_norm_forward_cn", "batch_norm_backward_cn", "fold"} <= set(batchnorm.__all__)


@pytest.mark.parametrize("suffix", ["", "_parallel"])
def test_the_public_kernels_take_statistics_and_parameters_one_by_one(rng, suffix):
    """Forward and backward give the same results as in `batchnorm_cn`."""
    x, dy = rng.standard_normal((2, 2, 5, 7), np.float32)
    gamma, beta = rng.standard_normal((2, 5), np.float32)
    eps, slope = np.float32(1e-5), np.float32(0.1)

    def results(module, is_flat):
        y, dx = np.empty_like(x), np.empty_like(x)
        mean, var, rstd, dgamma, dbeta = np.empty((5, 5), np.float32)
        forward = getattr(module, f"batch_norm_forward_cn{suffix}")
        backward = getattr(module, f"batch_norm_backward_cn{suffix}")
        if is_flat:
            forward(x, gamma, beta, eps, slope, 0, 5, y, mean, var, rstd)
            norm = gamma, beta, mean, rstd
        else:
            norm = ((mean, rstd, gamma, beta),)
            forward(x, *norm, eps, slope, 0, 5, y, var)
        backward(dy, x, *norm, slope, True, 0, 5, dx, dgamma, dbeta)
        return [y, mean, var, rstd, dx, dgamma, dbeta]

    for got, expected in zip(results(batchnorm, True), results(batchnorm_cn, False), strict=True):
        np.testing.assert_array_equal(got, expected)
