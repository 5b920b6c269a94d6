"""Read and write files of the cache, and trust only those that no other user can write.

Machine code is pickled, and a pickle can run any code when it is read. So a cache folder is created
for the user alone, and a folder that others may write to is neither read nor written. Others are
all users except root, and all groups except one whose only member is the user. The `__pycache__` of
an installed package is not checked: whoever can write there can change the package itself, and all
users of the package read its files.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import stat
import warnings

try:  # not later, in a fit: a child that is forked during an import may wait for it forever
    import grp
    import pwd
except ImportError:  # Windows does not have them
    pass

ROOT = 0


class UntrustedError(OSError):
    """Others may have written the file to read, or may change the file to write."""


def is_installed(folder: pathlib.Path) -> bool:
    """Tell whether a folder is part of an installed package."""
    return folder.name == "__pycache__"


def make_folder(folder: pathlib.Path) -> None:
    """Create a folder and its parents, for the user alone."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o777 if is_installed(folder) else 0o700, exist_ok=True)


def read(path: pathlib.Path) -> bytes:
    """Return a file's contents; warn and raise `UntrustedError` if others may have written it."""
    folder = path.parent
    _refuse(folder, untrusted(folder))
    with open(path, "rb") as file:
        if not is_installed(folder):
            # check the open file, since its name may refer to another file at any time
            _refuse(folder, _problem(path, os.fstat(file.fileno())))
        return file.read()


def write(path: pathlib.Path, data: bytes) -> None:
    """Write a file completely or not at all; refuse a folder that others may write to."""
    folder = path.parent
    _refuse(folder, untrusted(folder))
    mode = 0o666 if is_installed(folder) else 0o600
    temporary = path.with_name(f"{path.name}.tmp.{secrets.token_hex(8)}")
    file = open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    try:
        with file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def untrusted(folder: pathlib.Path) -> str | None:
    """Return why files in a folder are not trusted, or None."""
    if is_installed(folder):
        return None
    above = folder.parent
    return (
        _problem(folder, folder.stat())
        or _problem(folder, folder.lstat())  # the owner of the link, if it is one
        or _problem(above, above.stat(), sticky=True)
    )


def _problem(path: pathlib.Path, status: os.stat_result, *, sticky: bool = False) -> str | None:
    """Return how others may write to a file or folder, or None.

    With `sticky`, anybody may write to the folder if it has the sticky bit, as /tmp has.
    """
    if os.name != "posix":  # Windows has no owners and modes
        return None
    if status.st_uid not in (ROOT, os.geteuid()):
        return f"{path} belongs to another user (uid {status.st_uid})"
    others = stat.S_IWOTH if _is_private(status.st_gid) else stat.S_IWGRP | stat.S_IWOTH
    writable = status.st_mode & others and not stat.S_ISLNK(status.st_mode)
    if writable and not (sticky and status.st_mode & stat.S_ISVTX):
        return f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def _is_private(gid: int) -> bool:
    """Tell whether a group is the user's own: it has the user's name and no other members."""
    with contextlib.suppress(NameError, KeyError):  # Windows, or no such user or group
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(gid)
        return gid != ROOT and group.gr_name == user and set(group.gr_mem) <= {user}
    return False


_warned: set[pathlib.Path] = set()


def _refuse(folder: pathlib.Path, problem: str | None) -> None:
    """Raise `UntrustedError` if there is a problem; warn once for each folder."""
    if problem is None:
        return
    message = (
        f"cache of compiled kernels: {problem}, so files there may contain somebody else's code. "
        "They are not used, and kernels are compiled anew. Remove them and let nobody else write "
        "(chmod go-w), or set NUMBA_CACHE_DIR to a folder that only you can write to."
    )
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    raise UntrustedError(message)
