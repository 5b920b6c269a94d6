"""Atomic writes: a file is written as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator
from typing import IO, Any

from fastbn.checks import path_of


def writable_file(path: str | os.PathLike[str], name: str = "path") -> pathlib.Path:
    """Return the path of the argument `name`, links resolved; refuse one that cannot be written."""
    given = path_of(name, path)
    target = pathlib.Path(os.path.realpath(given))
    if reason := unusable_name(target):
        raise OSError(f"{name}: expected a file to write, got {target}: {reason}")
    if target.is_dir():
        raise IsADirectoryError(f"{name}: expected a file to write, got the directory {target}")
    if target.exists() and not target.is_file():
        raise OSError(f"{name}: expected a regular file to write, got {target}")
    for folder in (given.parent, target.parent):
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: expected an existing folder, got {folder}")
    return target


def unusable_name(path: pathlib.Path) -> str | None:
    """Return why no file can have this name, such as one that is too long, or None."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    return None


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file, which replaces `path` once it is written and synced."""
    target = pathlib.Path(os.path.realpath(path))  # a link stays, and its target is replaced
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}")
    file = open(temporary, mode.replace("w", "x"), **options)  # noqa: SIM115
    try:
        with file:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the new name survive a power failure, if the system can open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
