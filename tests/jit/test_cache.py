"""Kernels on disk: where they are kept, when they are outdated, and what is not read."""

from __future__ import annotations

import ast
import compileall
import hashlib
import os
import pathlib
import pickle
import shutil

import pytest
from cases import JIT_DISABLED
from own_process import ANNOUNCED, python_process, run_python

import fastbn
from fastbn.jit import cache, cache_files
from fastbn.jit.cache import KernelFiles

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

SOURCES = pathlib.Path(fastbn.__file__).parent


# -- packages ----------------------------------------------------------------------------------


def install(folder, kind="sources"):
    """Put the package into a folder; what PYTHONPATH has to name."""
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
    """Whether a process that imports fastbn from a path compiles."""
    code = ANNOUNCED + f"    assert fastbn.__file__.startswith({str(path)!r})\n"
    return run_python(code, tmp_path, PYTHONPATH=str(path), **environment).strip() == "1"


def home(folder):
    """Environment of a user whose cache folder is in `folder`."""
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
    """Its modules have no files; what is stamped is the executable file."""
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
    """Numba alone stamps the caller's file, and would go on running a helper's old code."""
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
    for name in ("choice", "cores", "dispatch", "team_size", "threads"):  # no code of kernels
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
    """Functions that are decorated with one of fastbn.jit.compiler's decorators, or given to it."""
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
    """Names that a module has from others of fastbn: name, and the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastbn"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (SOURCES.parent / (whole.replace(".", "/") + ".py")).exists()
                yield alias.asname or alias.name, whole if is_module else node.module


def test_all_that_a_kernel_is_compiled_from_is_in_its_stamp():
    """Its own module always is; here are the names that it has from others."""
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
    """So that no kernel is kept under a stamp of numba's."""
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
    """The processor would run machine code as it is."""
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


def test_machine_code_is_named_after_what_it_is_of(tmp_path):
    """Entries of one kernel, written at once, or under another stamp, are never mixed up."""

    def files(stamp):
        return KernelFiles(str(tmp_path), "kernel-1.py311", stamp)

    one, other = files("old"), files("old")
    other._load_index = dict  # it has seen the index before the first entry was written
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
    """Where nothing can be written, kernels are compiled in every process."""
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


# -- whose files ---------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="this system has no such owners and modes")


@pytest.fixture
def warned(monkeypatch):
    """No folder has been warned of."""
    monkeypatch.setattr(cache_files, "_warned", set())


@pytest.fixture
def folder(tmp_path, warned, monkeypatch):
    monkeypatch.setattr(cache_files, "_is_private", lambda gid: False)
    folder = tmp_path / "kept" / "kernels"
    cache_files.make_folder(folder)
    cache_files.write(folder / "file", b"code")
    return folder


def mode(path):
    return path.stat().st_mode & 0o7777


@posix
def test_what_is_made_is_for_its_owner_alone(tmp_path, monkeypatch):
    modes = []

    def replace(source, target):
        modes.append(mode(pathlib.Path(source)))
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(cache_files.os, "replace", replace)
    usual = os.umask(0)
    try:
        for name in ("cache/kernels", "__pycache__"):
            cache_files.make_folder(tmp_path / name)
            cache_files.write(tmp_path / name / "file", b"code")
    finally:
        os.umask(usual)
    made = ["cache", "cache/kernels", "cache/kernels/file", "__pycache__", "__pycache__/file"]
    found = [mode(tmp_path / name) for name in made]
    assert found == [0o700, 0o700, 0o600, 0o777, 0o666]
    assert modes == [0o600, 0o666]


@posix
@pytest.mark.parametrize("path", [".", ".."])
@pytest.mark.parametrize("writable", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_may_write_to(folder, path, writable):
    place = folder / path
    place.chmod(writable)
    if (path, writable) == ("..", 0o1777):  # like /tmp: they cannot touch what is ours
        assert cache_files.read(folder / "file") == b"code"
        return
    for use in (lambda: cache_files.read(folder / "file"), lambda: replaced(folder)):
        cache_files._warned.clear()
        with pytest.warns(RuntimeWarning) as warnings, pytest.raises(cache_files.UntrustedError):
            use()
        (warning,) = warnings
        text = str(warning.message)
        assert f"others may write to {place.resolve()} (mode {writable:o})" in text
        assert "compiled anew" in text
        assert "NUMBA_CACHE_DIR" in text
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"code"


def replaced(folder):
    cache_files.write(folder / "file", b"new")
    return (folder / "file").read_bytes() == b"new"


@posix
@pytest.mark.parametrize(
    ("name", "members", "is_private"),
    [("me", [], True), ("me", ["me"], True), ("me", ["me", "you"], False), ("users", [], False)],
)
def test_a_folder_that_a_group_may_write_to(
    tmp_path, warned, monkeypatch, name, members, is_private
):
    """As with a umask of 002, where each user has a group."""
    import grp
    import pwd

    folder = tmp_path / "kept" / "kernels"
    cache_files.make_folder(folder)
    cache_files.write(folder / "file", b"code")
    gid = folder.stat().st_gid
    group, user = (name, "x", gid, members), ("me", "x", os.geteuid(), gid, "", "/", "/bin/sh")
    monkeypatch.setattr(cache_files, "ROOT", -1)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(group))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(user))
    for place in (folder.parent, folder):
        place.chmod(0o775)
        assert (cache_files.untrusted(folder) is None) is is_private
    if is_private:
        assert cache_files.read(folder / "file") == b"code"
        assert replaced(folder)
    folder.chmod(0o777)
    assert "others may write" in cache_files.untrusted(folder)
    folder.chmod(0o700)
    folder.parent.chmod(0o777)
    assert "others may write" in cache_files.untrusted(folder)


@posix
def test_the_group_of_root_is_not_private():
    assert not cache_files._is_private(0)


@posix
def test_a_group_that_has_no_name_is_not_private():
    assert not cache_files._is_private(2**31 - 7)


@posix
def test_nothing_is_opened_in_a_folder_that_others_may_write_to(folder):
    """Opening a pipe that nobody writes to would take for ever."""
    os.mkfifo(folder / "pipe")
    folder.chmod(0o777)
    with (
        pytest.warns(RuntimeWarning, match="others may write"),
        pytest.raises(cache_files.UntrustedError),
    ):
        cache_files.read(folder / "pipe")


@posix
def test_what_only_its_owner_may_write_is_read(folder):
    (folder / "file").chmod(0o644)
    for place in (folder, folder.parent):
        place.chmod(0o755)
    assert cache_files.read(folder / "file") == b"code"


@posix
@pytest.mark.parametrize("writable", [0o666, 0o620])
def test_a_file_that_others_may_write_to_is_not_read_but_replaced(folder, writable):
    (folder / "file").chmod(writable)
    with (
        pytest.warns(RuntimeWarning, match=f"others may write to .*file .mode {writable:o}"),
        pytest.raises(cache_files.UntrustedError),
    ):
        cache_files.read(folder / "file")
    with pytest.raises(cache_files.UntrustedError):  # without a second warning
        cache_files.read(folder / "file")
    assert replaced(folder)
    assert cache_files.read(folder / "file") == b"new"


@posix
def test_the_open_file_is_looked_at(folder, monkeypatch):
    """And not its name, which another file may have got before it was opened."""
    status, other = os.fstat, (folder / "file").stat()

    def fstat(number):
        found = list(status(number))
        found[4] = other.st_uid + 1
        return os.stat_result(found)

    monkeypatch.setattr(cache_files.os, "fstat", fstat)
    with (
        pytest.warns(RuntimeWarning, match="file belongs to another user"),
        pytest.raises(cache_files.UntrustedError),
    ):
        cache_files.read(folder / "file")


@posix
def test_a_folder_of_another_user(folder, monkeypatch):
    monkeypatch.setattr(cache_files, "ROOT", -1)
    monkeypatch.setattr(cache_files.os, "geteuid", lambda: folder.stat().st_uid + 1)
    with (
        pytest.warns(RuntimeWarning, match="kernels belongs to another user"),
        pytest.raises(cache_files.UntrustedError),
    ):
        cache_files.read(folder / "file")


@posix
def test_what_root_has_prepared_is_read(folder, monkeypatch):
    monkeypatch.setattr(cache_files, "ROOT", folder.stat().st_uid)
    monkeypatch.setattr(cache_files.os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert cache_files.read(folder / "file") == b"code"


@posix
def test_a_link_to_a_folder(folder, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert cache_files.read(link / "file") == b"code"

    owner = folder.stat().st_uid

    def lstat(path):
        found = list(os.lstat(path))
        found[4] = owner + 1
        return os.stat_result(found)

    monkeypatch.setattr(pathlib.Path, "lstat", lstat)
    assert "another user" in cache_files.untrusted(link)
    monkeypatch.undo()
    folder.chmod(0o777)
    assert "others may write" in cache_files.untrusted(link)


def test_what_is_installed_is_trusted_as_the_package_is(tmp_path):
    folder = tmp_path / "__pycache__"
    folder.mkdir()
    folder.chmod(0o777)
    cache_files.write(folder / "file", b"code")
    assert cache_files.read(folder / "file") == b"code"
    assert cache_files.untrusted(folder) is None


def test_systems_without_owners_and_modes(folder, monkeypatch):
    folder.chmod(0o777)
    monkeypatch.setattr(cache_files.os, "name", "nt")
    assert cache_files.untrusted(folder) is None


class Planted:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.compiles
@posix
def test_code_that_others_could_have_planted_is_not_run(tmp_path):
    cache, trap = tmp_path / "cache", tmp_path / "trap"
    environment = {"NUMBA_CACHE_DIR": str(cache)}
    assert run_python(ANNOUNCED, **environment).strip() == "1"
    assert {mode(path) for path in cache.rglob("*")} == {0o700, 0o600}
    data = pickle.dumps(Planted(trap))
    for path in cache.rglob("*.nb?"):
        path.write_bytes(hashlib.sha256(data).digest() + data)
    (folder,) = cache.iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.chmod(0o777)
    done = python_process(ANNOUNCED, **environment)
    assert done.stdout.strip() == "1"
    assert not trap.exists()
    assert done.stderr.count("RuntimeWarning") == 1
    assert f"others may write to {folder} (mode 777)" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    folder.chmod(0o700)
    run_python(ANNOUNCED, **environment)
    assert trap.exists(), "nothing was planted"


WARNED = """
    import numpy as np, fastbn
    for _ in range(2):
        try:
            print(fastbn.fold_batch_norm(np.ones((2, 2)), None, None, [0.0] * 2, [1.0] * 2)[1])
        except RuntimeWarning as warning:
            print(type(warning).__name__)
"""


@pytest.mark.compiles
@posix
def test_a_warning_that_is_an_error_is_seen(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "error::RuntimeWarning"}
    run_python(WARNED, **environment)
    tmp_path.chmod(0o777)
    assert run_python(WARNED, **environment).split("\n")[:2] == ["RuntimeWarning", "[0. 0.]"]
