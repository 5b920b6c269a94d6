"""Files of a cache: read only where nobody but the user and root can have written them.

Machine code is pickled, and unpickling runs whatever a file says. So a folder that is kept for the
user is made for the user alone, and one that others may write to is neither read nor written. A
group that only the user is in may write to it. The `__pycache__` of an installed package needs no
such care: who can write there can change the package itself, and its files have to be readable by
all who use the package.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import stat
import warnings

try:  # at once, and not in a first fit: a child forked meanwhile would wait for an import for ever
    import grp
    import pwd
except ImportError:  # no such system
    pass

ROOT = 0


class UntrustedError(OSError):
    """Somebody else may have written what should be read, or could change what is written."""


def is_installed(folder: pathlib.Path) -> bool:
    """Tell whether a folder is part of an installed package."""
    return folder.name == "__pycache__"


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder, and those above it, for the user alone."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o777 if is_installed(folder) else 0o700, exist_ok=True)


def read(path: pathlib.Path) -> bytes:
    """Return what is in a file; an `UntrustedError`, and a warning, if it is not to be trusted."""
    folder = path.parent
    _refuse(folder, untrusted(folder))
    with open(path, "rb") as file:
        if not is_installed(folder):
            # the open file is looked at, since another one may get its name meanwhile
            _refuse(folder, _problem(path, os.fstat(file.fileno())))
        return file.read()


def write(path: pathlib.Path, data: bytes) -> None:
    """Write a file as a whole or not at all; an `UntrustedError` in a folder that is not safe."""
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
    """Return why files in a folder are not to be trusted; None where they are."""
    if is_installed(folder):
        return None
    above = folder.parent
    return (
        _problem(folder, folder.stat())
        or _problem(folder, folder.lstat())  # a link that somebody else has put there
        or _problem(above, above.stat(), sticky=True)
    )


def _problem(path: pathlib.Path, status: os.stat_result, *, sticky: bool = False) -> str | None:
    """Return who may write to a file or folder, if it is others; with `sticky` /tmp is fine."""
    if os.name != "posix":  # other systems have no such owners and modes
        return None
    if status.st_uid not in (ROOT, os.geteuid()):
        return f"{path} belongs to another user (uid {status.st_uid})"
    others = stat.S_IWOTH if _is_private(status.st_gid) else stat.S_IWGRP | stat.S_IWOTH
    writable = status.st_mode & others and not stat.S_ISLNK(status.st_mode)
    if writable and not (sticky and status.st_mode & stat.S_ISVTX):
        return f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def _is_private(gid: int) -> bool:
    """Tell whether a group is the user's own: it has the user's name, and no other members."""
    with contextlib.suppress(NameError, KeyError):  # no such system, or no such user or group
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(gid)
        return gid != ROOT and group.gr_name == user and set(group.gr_mem) <= {user}
    return False


_warned: set[pathlib.Path] = set()


def _refuse(folder: pathlib.Path, problem: str | None) -> None:
    """Raise an `UntrustedError` if there is a problem; warn once of each folder."""
    if problem is None:
        return
    message = (
        f"cache of compiled kernels: {problem}, and what is there could be somebody else's code. "
        "It is not used, and kernels are compiled anew. Remove what is there and let nobody else "
        "write (chmod go-w), or set NUMBA_CACHE_DIR to a folder that only you can write to."
    )
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    raise UntrustedError(message)
