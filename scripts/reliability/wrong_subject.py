"""Wrong calls of one function: a row for each bad value of each argument, and how it is checked."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from wrong_values import Bad

from fastbn.errors import MissingExtraError


class Row(NamedTuple):
    """A wrong call: `check(folder)` returns what came of it, or raises AssertionError."""

    name: str
    check: Callable[[pathlib.Path], str]
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Return the packages that it needs and that are not there."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


class Subject(NamedTuple):
    """What is called, with good arguments that are made anew for each call, and bad ones of each.

    The message has to begin with the argument's name, or with what `says` has for it; where the
    argument is a path it may name the file instead. Where there is a `peer` the error has to be the
    peer's, which knows of no such rule.
    """

    name: str
    call: Callable[..., Any]
    good: Callable[[pathlib.Path], dict[str, Any]]
    bad: dict[str, Bad]
    says: Mapping[str, str] = MappingProxyType({})
    peer: Callable[..., Any] | None = None
    needs: tuple[str, ...] = ()

    def rows(self) -> Iterator[Row]:
        """Yield a row for each bad value."""
        for argument, values in self.bad.items():
            for what, change in values.items():
                name = f"{self.name}: {argument}, {what}"
                check = functools.partial(self.check, name, argument, change)
                yield Row(name, check, self.needs)

    def arguments(self, folder: pathlib.Path, argument: str, change: Any) -> dict[str, Any]:
        """Return the good arguments with one of them made bad."""
        arguments = self.good(folder)
        return arguments | {argument: change(arguments.get(argument))}

    def check(self, name: str, argument: str, change: Any, folder: pathlib.Path) -> str:
        """Make the call."""
        arguments = self.arguments(folder, argument, change)
        bad = arguments[argument]
        before = fingerprint(arguments)
        error = error_of(self.call, arguments)
        assert error is not None, f"{name}: was taken"
        if self.peer is None:
            is_file = isinstance(bad, pathlib.PurePath)
            allowed = (ValueError, TypeError, MissingExtraError) + (OSError,) * is_file
            assert isinstance(error, allowed), f"{name}: {error!r}"
            names = self.says.get(argument, rf"{re.escape(argument)}\b")
            named = re.match(names, str(error)) or (is_file and str(bad) in str(error))
            assert named, f"{name}: not named in {error!r}"
        else:
            expected = error_of(self.peer, self.arguments(folder, argument, change))
            assert repr(error) == repr(expected), f"{name}: {error!r}, and not {expected!r}"
        assert fingerprint(arguments) == before, f"{name}: changed an argument"
        assert files(folder) == first(folder), f"{name}: changed a file"
        return type(error).__name__


def error_of(call: Callable[..., Any], arguments: dict[str, Any]) -> BaseException | None:
    """Return what a call raises; a warning counts, too."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of old libraries, to each other
        try:
            call(**arguments)
        except Exception as error:
            return error
    return None


def fingerprint(value: Any) -> Any:
    """Return what is equal as long as no bit of a value has changed."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        mask = np.ma.getmaskarray(value).tobytes() if np.ma.isMaskedArray(value) else b""
        return value.dtype.str, value.shape, value.strides, str(value.flags), value.tobytes(), mask
    if hasattr(value, "get_params"):  # an estimator, whose attributes have no order
        value = vars(value)
    if isinstance(value, dict):
        return {key: fingerprint(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(part) for part in value]
    if isinstance(value, type):
        return value
    if hasattr(value, "state_dict"):  # a module or an optimizer of PyTorch's
        modules = [(type(part), part.training) for part in getattr(value, "modules", list)()]
        return modules, fingerprint(value.state_dict())
    if hasattr(value, "detach"):
        return fingerprint(value.detach().numpy())
    try:
        return pickle.dumps(value)
    except Exception:  # functions made here
        return repr(value)


@functools.cache
def first(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Return what there was below a folder at the first look."""
    return files(folder)


def files(folder: pathlib.Path | str) -> dict[str, tuple[int, ...]]:
    """Return what the file system says of all below a folder: no write leaves that as it is."""
    found = {}
    for entry in os.scandir(folder):
        what = entry.stat()
        found[entry.path] = what.st_ino, what.st_size, what.st_mtime_ns, what.st_ctime_ns
        if entry.is_dir():
            found |= files(entry.path)
    return found
