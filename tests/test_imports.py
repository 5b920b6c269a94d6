"""Imports go from outer modules to inner ones, and importing fastbn is cheap."""

from __future__ import annotations

import ast
import graphlib
import importlib
import pathlib
import subprocess
import sys
from importlib.util import find_spec

import pytest

import fastbn

PACKAGE = pathlib.Path(fastbn.__file__).parent

# Innermost first; a module may import from its own rank and from those before it. A name includes
# all modules below it that have no entry of their own.
RANKS = [
    {"errors", "options", "reference"},
    {"jit"},
    {"parallel"},
    {"kernels"},
    {"checks"},
    {"functional", "files", "fit"},
    {"model"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
EDGE = len(RANKS)  # everything else: it may import inner modules; only such modules import it


def rank_of(module):
    """Return the rank of a module by its name without "fastbn."."""
    parts = module.split(".")
    known = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((RANK[name] for name in known if name in RANK), EDGE)


# Functions that get the name of a module but do not import it.
NO_LOADERS = {"find_spec", "missing_extra"}


def imports_of(path):
    """Return all names of fastbn that a file imports, including deferred imports and strings."""
    tree = ast.parse(path.read_text())
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for node in ast.walk(tree):
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
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "fastbn":
                yield node.attr  # fastbn looks its public names up, and imports their modules
        elif isinstance(node, ast.Call):
            yield from imports_of_call(path, node, texts)


def imports_of_call(path, call, texts):
    """Return modules of fastbn that a call gets by name; `texts` are the strings of its file.

    A name with a placeholder, as in f"fastbn.bench.{module}", may end with any of these strings.
    """
    function = ast.unparse(call.func).rpartition(".")[2]
    if function in NO_LOADERS:
        return
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if function in ("import_module", "__import__"):
        name = given[0]
        start = name.values[0] if isinstance(name, ast.JoinedStr) else name
        assert isinstance(start, ast.Constant), f"{path.name}: imports a name that nobody sees"
        assert not start.value.startswith("."), f"{path.name}: relative import"
    for name in given:
        found = [name.value] if isinstance(name, ast.Constant) else []
        if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
            found = [name.values[0].value + text for text in texts]
        for module in found:
            is_ours = isinstance(module, str) and module.startswith("fastbn.")
            if is_ours and module.removeprefix("fastbn.") in MODULES:
                yield module.removeprefix("fastbn.")


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {
    module_of(path).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def module_with(name):
    """Return the module that a name of fastbn is, or is in: a public name has its home."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        if ".".join(parts[:size]) in MODULES:
            return ".".join(parts[:size])
    home = getattr(getattr(fastbn, parts[0]), "__module__", "fastbn")
    return home.removeprefix("fastbn.") if home.startswith("fastbn.") else None


def imports_by_module():
    """Return the modules that each module imports, without itself.

    fastbn/__init__.py is left out: it looks up public names when they are used. A name that is
    imported from it counts as an import of the module that defines the name.
    """
    return {
        module: {module_with(name) for name in imports_of(path)} - {module, None}
        for module, path in MODULES.items()
    }


def test_there_are_no_circular_imports():
    graph = imports_by_module()
    assert sum(map(len, graph.values())) > 200
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the cycle


@pytest.mark.parametrize(
    "code",
    [
        'importlib.import_module("fastbn.torch")',
        'import_module(name="fastbn.torch")',
        'NAMES = {"a": "torch"}\nimport_module(f"fastbn.{NAMES[name]}")',
        '__import__("fastbn.torch")',
        'later = Lazy("fastbn.torch")',
        "def f():\n    import fastbn.torch",
        "def f():\n    from fastbn import torch",
        "import fastbn\nfastbn.torch.accelerate",
    ],
)
def test_imports_by_strings_are_seen(tmp_path, code):
    path = tmp_path / "module.py"
    path.write_text(code)
    assert list(imports_of(path)) == ["torch"]


@pytest.mark.parametrize("code", ["import_module(name)", 'import_module(".a", "fastbn")'])
def test_imports_that_cannot_be_seen_are_refused(tmp_path, code):
    path = tmp_path / "module.py"
    path.write_text(code)
    with pytest.raises(AssertionError, match="module.py: "):
        list(imports_of(path))


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
    for path in (PACKAGE / "reference").glob("*.py"):
        assert {name.split(".")[0] for name in imports_of(path)} <= {"reference"}, path.name


def test_only_model_uses_the_engine_of_a_model():
    users = {path.parent.name for path in MODULES.values() if "._engine" in path.read_text()}
    assert users == {"model"}  # outer modules use model/edges.py


def test_kernels_import_only_each_other_the_compiler_and_options():
    for path in (PACKAGE / "kernels").glob("*.py"):
        folders = {name.split(".")[0] for name in imports_of(path)}
        assert folders <= {"kernels", "jit", "options", "parallel"}, path.name


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
    """Importing all public names loads no framework and compiles no kernel."""
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


def test_unknown_names():
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        _ = fastbn.batchnorm
    with pytest.raises(AttributeError, match=r"'fastbn\.model' has no attribute 'MLP'"):
        _ = fastbn.model.MLP


EDGES = {"doctor", "plotting", "profiling", "sklearn", "torch"}


def test_type_checkers_see_every_public_name():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    seen = {alias.name for node in imports for alias in node.names}
    assert seen == {*fastbn.__all__, *EDGES} - {"__version__"}
    exported = block.body[-1]
    assert ast.unparse(exported.target) == "__all__"
    assert set(ast.literal_eval(exported.value)) == EDGES


ABSENT = """
import sys
sys.modules |= {"sklearn": None, "torch": None}  # as if they were not installed
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("sklearn", "torch") else find_spec(name)
import fastbn
print(set(dir(fastbn)) ^ {*fastbn.__all__, "doctor", "plotting", "profiling"})
for name in ("sklearn", "torch"):
    try:
        getattr(fastbn, name)
    except fastbn.MissingExtraError as error:
        print(error)
"""


def test_edges_are_loaded_by_attribute():
    code = "import fastbn; print(fastbn.doctor.report, fastbn.profiling.Profile, fastbn.plotting)"
    assert run_python(code).startswith("<function report")
    present = {name for name in EDGES if name not in ("sklearn", "torch") or find_spec(name)}
    assert set(dir(fastbn)) == {*fastbn.__all__, *present}
    code = "import fastbn; print(fastbn.sklearn.BatchNormMLPClassifier.__name__)"
    if "sklearn" in present:
        assert run_python(code).strip() == "BatchNormMLPClassifier"


def test_edges_without_their_packages():
    assert run_python(ABSENT).splitlines() == [
        "set()",
        "fastbn.sklearn needs scikit-learn, which is not installed: pip install 'fastbn[sklearn]'",
        "fastbn.torch needs PyTorch, which is not installed: pip install 'fastbn[torch]'",
    ]


@pytest.mark.parametrize(
    "name", ["functional", "model", "profiling", "schedules", "sklearn", "torch", "training"]
)
def test_dir_shows_public_names_and_nothing_else(name):
    if name in ("sklearn", "torch"):
        pytest.importorskip(name)
    module = importlib.import_module(f"fastbn.{name}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)
