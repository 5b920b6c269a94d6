"""Files of the cache: whose files are trusted, and what is not read."""

from __future__ import annotations

import hashlib
import os
import pathlib
import pickle

import pytest
from cases import JIT_DISABLED
from own_process import ANNOUNCED, python_process, run_python

from fastbn.jit import cache_files

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled")

posix = pytest.mark.skipif(os.name != "posix", reason="this system has no such owners and modes")


@pytest.fixture
def warned(monkeypatch):
    """Start without any warnings issued so far."""
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
def test_new_files_are_for_their_owner_only(tmp_path, monkeypatch):
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
    if (path, writable) == ("..", 0o1777):  # like /tmp: others cannot replace our files
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
    """A umask of 002, where each user has a group, leads to this."""
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
    """Opening a pipe that nobody writes to would block forever."""
    os.mkfifo(folder / "pipe")
    folder.chmod(0o777)
    with (
        pytest.warns(RuntimeWarning, match="others may write"),
        pytest.raises(cache_files.UntrustedError),
    ):
        cache_files.read(folder / "pipe")


@posix
def test_files_that_only_their_owner_may_write_are_read(folder):
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
def test_the_mode_of_the_open_file_is_checked(folder, monkeypatch):
    """The file name may belong to another file by then."""
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
def test_files_of_root_are_read(folder, monkeypatch):
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


def test_the_pycache_of_the_package_is_trusted(tmp_path):
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
    """Unpickling this creates a file."""

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
