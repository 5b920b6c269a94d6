"""Imports point inwards, and importing fastbn costs next to nothing."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import fastbn

PACKAGE = pathlib.Path(fastbn.__file__).parent

# Innermost first; a module may import from its own rank and from those before it. A name stands for
# all modules under it that are not named themselves.
RANKS = [
    {"errors", "reference", "parallel.cgroups"},
    {"jit"},
    {"parallel"},
    {"kernels"},
    {"checks", "parallel.team_size"},
    {"functional", "files", "fit"},
    {"model"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
EDGE = len(RANKS)  # everything else: may import inwards, and only edges may import it


def rank_of(module):
    """Return the rank of a module by its name without "fastbn."."""
    parts = module.split(".")
    known = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((RANK[name] for name in known if name in RANK), EDGE)


def imports_of(path):
    """Names of fastbn that a file imports anywhere, deferred imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module == "fastbn":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("fastbn."):
                yield from (
                    f"{node.module.removeprefix('fastbn.')}.{alias.name}" for alias in node.names
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("fastbn."):
                    yield alias.name.removeprefix("fastbn.")


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def test_imports_point_inwards():
    checked = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        importer = module_of(path)
        if importer == "__init__" or importer.startswith("moved."):
            continue
        for imported in imports_of(path):
            if imported == "__version__":
                continue
            checked += 1
            assert rank_of(imported) <= rank_of(importer), (
                f"{importer} imports {imported}, which lies further out"
            )
    assert checked > 30


def test_the_oracle_imports_nothing_of_fastbn():
    assert list(imports_of(PACKAGE / "reference" / "__init__.py")) == []
    assert {rank_of(name) for name in imports_of(PACKAGE / "reference" / "mlp.py")} == {0}


def test_kernels_import_only_each_other_and_the_compiler():
    for path in (PACKAGE / "kernels").glob("*.py"):
        folders = {name.split(".")[0] for name in imports_of(path)}
        assert folders <= {"kernels", "jit", "parallel"}, path.name


DECORATORS = {"njit", "njit_allocating", "njit_inlined", "njit_parallel", "njit_strict"}


def test_no_kernel_sets_its_own_compiler_options():
    for path in (PACKAGE / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [ast.unparse(decorator) for decorator in node.decorator_list]
                assert len(names) == 1, f"{path.name}: {node.name}"
                assert names[0] in DECORATORS, f"{path.name}: {node.name}"


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


HEAVY = ["numba", "scipy", "sklearn", "torch", "matplotlib", "rich", "typer", "pooch"]


def test_import_fastbn_pulls_in_nothing_heavy():
    loaded = run_python(f"import sys, fastbn; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_importing_every_name_compiles_nothing():
    """All public names together: no framework is loaded, and no kernel compiled."""
    code = f"""
import sys, fastbn
for name in fastbn.__all__:
    getattr(fastbn, name)
heavy = [m for m in {HEAVY[2:]} if m in sys.modules]
from numba.core.registry import CPUDispatcher
import fastbn.kernels.network, fastbn.kernels.batchnorm_nc
kernels = [
    value
    for name, module in sys.modules.items()
    if name.startswith("fastbn.kernels")
    for value in vars(module).values()
    if isinstance(value, CPUDispatcher)
]
print(heavy, len(kernels) > 40, sum(len(kernel.signatures) for kernel in kernels))
"""
    assert run_python(code).strip() == "[] True 0"


def test_dir_and_unknown_names():
    assert set(fastbn.__all__) <= set(dir(fastbn))
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        _ = fastbn.batchnorm


def test_type_checkers_see_every_public_name():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen == set(fastbn.__all__) - {"__version__"}
