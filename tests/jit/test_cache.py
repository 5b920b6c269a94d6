"""Kernels on disk: where they are kept, and when they are outdated."""

from __future__ import annotations

import ast
import compileall
import os
import pathlib
import shutil

import pytest
from cases import JIT_DISABLED
from own_process import ANNOUNCED, run_python

import fastbn
from fastbn.jit import cache
from fastbn.jit.cache import KernelFiles

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

SOURCES = pathlib.Path(fastbn.__file__).parent


# -- packages ----------------------------------------------------------------------------------


def install(folder, kind="sources"):
    """Put the package into a folder; return the entry for PYTHONPATH."""
    package = folder / "fastbn"
    shutil.copytree(SOURCES, package, ignore=shutil.ignore_patterns("__pycache__"))
    return pack(folder, kind)


def pack(folder, kind):
    """Compile the sources of a package to bytecode, or put them into a zip."""
    if "bytecode" in kind:
        compileall.compile_dir(folder / "fastbn", quiet=2, legacy=True)
        for path in (folder / "fastbn").rglob("*.py"):
            path.unlink()
    if "zip" not in kind:
        return folder
    zipped = shutil.make_archive(str(folder / "app"), "zip", folder, "fastbn")
    shutil.rmtree(folder / "fastbn")
    return pathlib.Path(zipped)


def compiles(path, tmp_path, **environment):
    """Return whether a process that imports fastbn from this path compiles."""
    code = ANNOUNCED + f"    assert fastbn.__file__.startswith({str(path)!r})\n"
    return run_python(code, tmp_path, PYTHONPATH=str(path), **environment).strip() == "1"


def home(folder):
    """Return the environment of a user whose cache folder is in `folder`."""
    names = ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA")
    return {**dict.fromkeys(names, str(folder)), "NUMBA_CACHE_DIR": ""}


@pytest.mark.compiles
@pytest.mark.parametrize("kind", ["zip", "zip of bytecode", "bytecode"])
def test_packages_without_source_files_are_cached(tmp_path, kind):
    path = install(tmp_path / "installed", kind)
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert compiles(path, tmp_path, **cache)
    assert not compiles(path, tmp_path, **cache)
    assert list((tmp_path / "cache").rglob("*.nbc"))


@pytest.mark.compiles
@pytest.mark.parametrize("kind", ["zip", "bytecode"])
def test_packages_without_source_files_are_cached_where_no_folder_is_named(tmp_path, kind):
    path = install(tmp_path / "installed", kind)
    user = tmp_path / "home"
    assert compiles(path, tmp_path, **home(user))
    assert not compiles(path, tmp_path, **home(user))
    kept = list(tmp_path.rglob("*.nbc"))
    assert kept
    inside = user if kind == "zip" else path / "fastbn" / "kernels" / "__pycache__"
    assert all(file.is_relative_to(inside) for file in kept)


def test_a_package_in_a_zip_has_its_data(tmp_path):
    path = install(tmp_path / "installed", "zip")
    code = """
        import fastbn
        from fastbn.datasets import load_digits
        data = load_digits()
        print(fastbn.__file__, data.X_train.shape[1])
    """
    output = run_python(code, tmp_path, PYTHONPATH=str(path)).split()
    assert output == [str(path / "fastbn" / "__init__.py"), "64"]


@pytest.mark.compiles
def test_a_frozen_application_is_cached(tmp_path):
    """Its modules have no files, so the stamp is of the executable."""
    code = "import sys; sys.frozen = True\n" + ANNOUNCED.replace("\n    ", "\n")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run_python(code, **cache).strip() == "1"
    assert run_python(code, **cache).strip() == "0"


# -- stamps ------------------------------------------------------------------------------------


FOLDED = """
    import fastbn.kernels.batchnorm as b, numpy as np; f = np.float32
    a = np.ones((1, 2, 4), f); v = np.ones(2, f); o = np.empty_like(a)
    b.batch_norm_inference_cn(a, 0 * v, v, v, v, f(0), f(1), 0, 2, o); print(o[0, 0, 0])
"""


def edit(folder, name, old, new):
    path = folder / "fastbn" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.compiles
@pytest.mark.parametrize("kind", ["sources", "bytecode", "zip", "zip of bytecode"])
def test_a_change_in_any_kernel_file_outdates_all(tmp_path, kind):
    """Numba itself only checks the caller's file, and would still run a helper's old code."""
    for version, expected in (("1", "2.0"), ("2", "7.0")):
        path = tmp_path / version
        install(path)
        if version == "2":
            edit(path, "kernels/activations.py", "scale, offset)\n", "scale, offset) + 5\n")
        installed = tmp_path / ("app.zip" if "zip" in kind else "app")
        if installed.is_dir():
            shutil.rmtree(installed)
        pack(path, kind).replace(installed)
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(installed)}
        assert run_python(FOLDED, tmp_path, **environment).strip() == expected


READ = """
    import numpy as np
    from fastbn.parallel.team import Member
    from fastbn.profiling._roofline import read_often
    total = np.zeros(1, np.float32)
    alone = Member(np.zeros(0, np.int64), 0, 1, None)
    read_often(1, np.ones(3, np.float32), total, total, np.zeros(1, np.int64), alone)
    print(total[0])
"""


@pytest.mark.compiles
def test_a_change_in_a_kernel_of_another_module_outdates_it(tmp_path):
    install(tmp_path)
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    assert run_python(READ, tmp_path, **environment).strip() == "3.0"
    edit(tmp_path, "profiling/_roofline.py", "+= row_sum(source)", "+= row_sum(source) + 5")
    assert run_python(READ, tmp_path, **environment).strip() == "8.0"


STAMPS = """
    import importlib
    from fastbn.jit import cache
    for name in {names}:
        importlib.import_module(name)
    print(cache.stamp("fastbn.kernels.gemm"), cache.stamp("fastbn.profiling._roofline"))
"""


def stamps(folder, *names):
    code = STAMPS.format(names=[*names, "fastbn.kernels.gemm", "fastbn.profiling._roofline"])
    return run_python(code, folder, PYTHONPATH=str(folder)).split()


def test_stamps_do_not_depend_on_what_is_imported(tmp_path):
    install(tmp_path)
    assert stamps(tmp_path) == stamps(tmp_path, "fastbn.profiling", "fastbn.functional")


def test_a_change_elsewhere_leaves_the_kernels(tmp_path):
    install(tmp_path)
    kernels, probes = stamps(tmp_path)
    edit(tmp_path, "profiling/_roofline.py", "+= row_sum(source)", "+= row_sum(source) + 5")
    edit(tmp_path, "model/model.py", "from __future__", "from  __future__")
    for name in ("choice", "cores", "dispatch", "team_size", "threads"):  # contains no kernel code
        edit(tmp_path, f"parallel/{name}.py", "from __future__", "from  __future__")
    changed = stamps(tmp_path)
    assert changed[0] == kernels
    assert changed[1] != probes, "it has a kernel of its own"


def test_every_module_of_a_package_of_kernels_is_in_the_stamp(tmp_path):
    install(tmp_path)
    (kernels, _), package = stamps(tmp_path), tmp_path / "fastbn" / "kernels" / "more"
    package.mkdir()
    seen = {kernels}
    for name in ("__init__", "loops"):
        (package / f"{name}.py").write_text("raise ImportError('to look is not to import')\n")
        seen.add(stamps(tmp_path)[0])
    assert len(seen) == 3


def module_of(path):
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def compiled_functions(tree):
    """Return functions that one of fastbn.jit.compiler's decorators decorates or gets."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for function in functions.values():
        if any("njit" in ast.unparse(decorator) for decorator in function.decorator_list):
            yield function
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "njit" in ast.unparse(node.func):
            for argument in node.args:
                if isinstance(argument, ast.Name) and argument.id in functions:
                    yield functions[argument.id]


def imported_names(tree):
    """Return names that a module imports from others of fastbn, each with its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastbn"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (SOURCES.parent / (whole.replace(".", "/") + ".py")).exists()
                yield alias.asname or alias.name, whole if is_module else node.module


def test_all_that_a_kernel_is_compiled_from_is_in_its_stamp():
    """A kernel's own module always is; this checks names that it imports from others."""
    owners = set()
    for path in sorted(SOURCES.rglob("*.py")):
        tree, module = ast.parse(path.read_text()), module_of(path)
        imported = dict(imported_names(tree))
        for function in compiled_functions(tree):
            owners.add(module)
            used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
            for name in used & imported.keys():
                assert imported[name] in {*cache.shared_modules(), module}, (module, name)
    assert {"fastbn.kernels.gemm", "fastbn.parallel.team", "fastbn.profiling._roofline"} <= owners
    assert "fastbn.model" not in owners


def test_only_one_module_compiles_by_itself():
    """Otherwise a kernel could be cached under numba's own stamp."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("njit", "jit", "vectorize"):
                assert ast.unparse(node.value) != "numba" or path.name == "compiler.py", path


# -- files -------------------------------------------------------------------------------------


@pytest.mark.compiles
def test_a_damaged_cache_is_compiled_again(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    run_python(ANNOUNCED, **cache)
    for ending in ("nbc", "nbi"):
        files = list(tmp_path.rglob(f"*.{ending}"))
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[:40])
        assert run_python(ANNOUNCED, **cache).strip() == "1"
        assert run_python(ANNOUNCED, **cache).strip() == "0", "it was not mended"


def test_flipped_bytes_are_noticed(tmp_path):
    """The processor would run whatever machine code it gets."""
    files = KernelFiles(str(tmp_path), "kernel-1.py311", "stamp")
    entry(files, "key", "code" * 100)
    (code,) = tmp_path.glob("*.nbc")
    (index,) = tmp_path.glob("*.nbi")
    for path in (code, index):
        good = path.read_bytes()
        for place in range(0, len(good), 7):
            path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            if path is index:
                assert entry(files, "key") is None
            else:
                with pytest.raises(ValueError, match="damaged"):
                    entry(files, "key")
        path.write_bytes(good)
    assert entry(files, "key") == "code" * 100


FULL_DISK = """
    import resource
    import numpy as np
    from fastbn import batch_statistics, fold_batch_norm
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    W, b = fold_batch_norm(np.ones((2, 3)), None, None, np.zeros(2), np.ones(2), eps=0.0)
    print(W.sum(), *batch_statistics(np.eye(3))[0])
"""


@pytest.mark.compiles
def test_a_full_disk(tmp_path):
    pytest.importorskip("resource", reason="no limits of files to set here")
    output = run_python(FULL_DISK, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert float(output[0]) == 6.0
    assert [float(mean) for mean in output[1:]] == pytest.approx([1 / 3] * 3)


def entry(files, key, data=None):
    if data is None:
        return files.load(key)
    return files.save(key, data)


def test_machine_code_of_several_writers_is_never_mixed_up(tmp_path):
    """Entries of one kernel that are written at once, or with other stamps, are not mixed up."""

    def files(stamp):
        return KernelFiles(str(tmp_path), "kernel-1.py311", stamp)

    one, other = files("old"), files("old")
    other._load_index = dict  # it has read the index before the first entry was written
    entry(one, "float32", "code of float32")
    entry(other, "float64", "code of float64")
    for reader in (one, files("old")):
        assert entry(reader, "float32") in (None, "code of float32")
        assert entry(reader, "float64") == "code of float64"
    new = files("new")
    assert entry(new, "float64") is None
    new._save_data = lambda name, data: None  # the process ends before the code is written
    entry(new, "float64", "code of new sources")
    assert entry(files("new"), "float64") is None
    entry(files("new"), "float64", "code of new sources")
    assert entry(files("new"), "float64") == "code of new sources"
    assert len(list(tmp_path.glob("*.nbc"))) == 1, "code of former sources stayed"


@pytest.mark.compiles
def test_an_installation_that_cannot_be_written_caches_in_the_users_folder(tmp_path):
    package = tmp_path / "installed" / "fastbn"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(os.path.dirname(fastbn.__file__), package, ignore=ignored)
    for folder in (package, package / "kernels"):
        (folder / "__pycache__").write_text("a file, where a folder would have to be made")
    home = tmp_path / "home"
    environment = {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(home)}
    environment |= {"HOME": str(home), "LOCALAPPDATA": str(home), "NUMBA_CACHE_DIR": ""}
    assert run_python(ANNOUNCED, tmp_path, **environment).strip() == "1"
    assert run_python(ANNOUNCED, tmp_path, **environment).strip() == "0"
    assert list(home.rglob("*.nbc"))


@pytest.mark.compiles
def test_no_folder_for_the_cache(tmp_path):
    """If nothing can be written, every process compiles its kernels."""
    file = tmp_path / "file"
    file.touch()
    path = install(tmp_path / "installed", "zip")
    environment = {**home(file), "NUMBA_CACHE_DIR": str(file / "cache"), "PYTHONPATH": str(path)}
    code = """
        import fastbn, numpy as np
        from fastbn.jit import compiler
        from fastbn.kernels.batchnorm import fold
        print(fastbn.batch_statistics(np.ones((4, 2)))[0], compiler.cache_folder(fold))
    """
    assert run_python(code, tmp_path, **environment).strip() == "[1. 1.] None"


def test_cache_folder_is_where_the_user_says(tmp_path):
    code = "from fastbn.jit import compiler; from fastbn.kernels.batchnorm import fold; "
    code += "print(compiler.cache_folder(fold))"
    folder = run_python(code, NUMBA_CACHE_DIR=str(tmp_path)).strip()
    assert folder.startswith(str(tmp_path))
