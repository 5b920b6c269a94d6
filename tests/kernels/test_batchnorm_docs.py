"""docs/batchnorm.md names files and kernels that exist, and none of the entry points is missing."""

from __future__ import annotations

import importlib
import pathlib
import re

from fastbn.kernels import batchnorm, batchnorm_cn, running, statistics_cn

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "batchnorm.md").read_text(encoding="utf-8")

# A cell of the table: a file of fastbn/kernels and the kernels in it.
CELL = re.compile(r"\| `(\w+)\.py`:([^|]*)")


def kernels():
    """Names of kernels in the table, by module."""
    found = {}
    for module, names in CELL.findall(TEXT):
        found.setdefault(module, set()).update(re.findall(r"`(\w+)`", names))
    return found


def test_every_kernel_of_the_table_is_in_its_file():
    assert len(kernels()) >= 8
    for name, names in kernels().items():
        module = importlib.import_module(f"fastbn.kernels.{name}")
        source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
        for kernel in names:
            assert f"\ndef {kernel}(" in source, f"{name}: no {kernel}"


def test_every_file_exists():
    files = re.findall(r"`((?:fastbn|functional|kernels|tests)/[\w/]+\.py)`", TEXT)
    assert len(files) > 8
    for file in files:
        assert (ROOT / file).is_file() or (ROOT / "fastbn" / file).is_file(), file


def test_both_layouts_have_their_entry_points_in_the_table():
    for layout in ("cn", "nc"):
        for way in ("forward", "backward", "inference"):
            assert f"batch_norm_{way}_{layout}" in kernels()[f"batchnorm_{layout}"]


def test_kernels_name_the_document():
    folder = ROOT / "fastbn" / "kernels"
    files = [*folder.glob("batchnorm*.py"), *folder.glob("statistics_*.py")]
    assert len(files) > 7
    for file in files:
        assert "docs/batchnorm.md" in file.read_text(encoding="utf-8").split('"""')[1], file.name


def test_the_public_module_has_the_kernels_of_all_files():
    """`fastbn.kernels.batchnorm`, which users import, is not a second copy of anything."""
    homes = [batchnorm_cn, running, statistics_cn]
    for name in batchnorm.__all__:
        assert any(getattr(batchnorm, name) is vars(home).get(name) for home in homes), name
    assert {"batch_norm_forward_cn", "batch_norm_backward_cn", "fold"} <= set(batchnorm.__all__)
