"""Caches of compiled kernels that are broken, beyond reach, or shared: results stay right."""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np
from children import Child

import fastbn

# One kernel that compiles in a second. `{before}` is run between import and use.
USE = """
import ctypes, pathlib, shutil, sys
import numpy as np
import fastbn
import fastbn.functional
{before}
rng = np.random.default_rng({seed})
W, b = fastbn.fold_batch_norm(rng.random((20, 30)), None, None, *rng.random((2, 20)))
print(W.tobytes().hex(), b.tobytes().hex())
"""

# The system's superuser may write everywhere, but for a process that gives that right up.
OBEY_MODES = """
import ctypes
header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None)
libc.capget(header, rights)
rights[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
libc.capset(header, rights)
"""


class Use:
    """A call of one kernel in a process of its own, and its result."""

    def __init__(self, rng: np.random.Generator, before: str = "", first: str = "") -> None:
        seed = int(rng.integers(2**31))
        rng = np.random.default_rng(seed)
        W, b = fastbn.fold_batch_norm(rng.random((20, 30)), None, None, *rng.random((2, 20)))
        self.expected = [W.tobytes().hex(), b.tobytes().hex()]
        self.code = first + USE.format(before=before, seed=seed)

    def start(self, cache: pathlib.Path, **environment: str) -> Child:
        """Start it with a folder for the cache."""
        return Child("-c", self.code, NUMBA_CACHE_DIR=str(cache), **environment)

    def check(self, child: Child) -> None:
        """Wait for its end, and compare."""
        assert child.output().split() == self.expected, "wrong results"

    def run(self, cache: pathlib.Path, **environment: str) -> None:
        """Start it and check."""
        self.check(self.start(cache, **environment))


def at_once(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Processes compile into one empty cache."""
    use = Use(rng)
    children = [use.start(folder) for _ in range(2)]
    for child in children:
        use.check(child)
    assert list(folder.rglob("*.nbc"))
    use.run(folder)
    return "right results"


def killed(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """A process is killed while it compiles or writes."""
    use = Use(rng)
    child = use.start(folder)
    end = time.perf_counter() + rng.uniform(0.5, 4)
    while time.perf_counter() < end and not list(folder.rglob("*.nb*")):
        time.sleep(0.001)
    child.kill()
    child.process.communicate()
    use.run(folder)
    return "right results"


def no_folder(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """The cache's folder would have to be in a file."""
    file = folder / "file"
    file.touch()
    Use(rng).run(file / "cache")
    return "right results"


def read_only(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Nothing can be written: not the cache, nor beside the kernels, nor at home."""
    package, cache = folder / "fastbn", folder / "cache"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(pathlib.Path(fastbn.__file__).parent, package, ignore=ignored)
    cache.mkdir()
    before = f"""
try:
    pathlib.Path({str(cache)!r}, "file").touch()
except PermissionError:
    pass
else:
    raise OSError("it can be written")
"""
    use = Use(rng, before, first=OBEY_MODES)
    if rng.random() < 0.5:  # as it is left by somebody who could write
        Use(rng).run(cache, PYTHONPATH=str(folder))
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    home = str(folder)
    try:
        use.run(cache, PYTHONPATH=str(folder), HOME=home, XDG_CACHE_HOME=home)
    finally:
        for path in paths:
            path.chmod(0o755)
    return "right results"


def vanished(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """The folder is removed between import and use, and there may be a file in its place."""
    cache = folder / "cache"
    before = f"shutil.rmtree({str(cache)!r})"
    if rng.random() < 0.5:
        before += f"; pathlib.Path({str(cache)!r}).touch()"
    Use(rng, before).run(cache)
    return "right results"


def damaged(rng: np.random.Generator, folder: pathlib.Path) -> str:
    """Files are cut off, or some of their bytes are flipped."""
    use = Use(rng)
    use.run(folder)
    for _ in range(3):
        files = [path for path in folder.rglob("*.nb*") if path.stat().st_size]
        assert files
        for path in rng.permutation(np.array(files, object))[: rng.integers(1, len(files) + 1)]:
            data = bytearray(path.read_bytes())
            if rng.random() < 0.5:
                del data[rng.integers(len(data)) :]
            else:
                for place in rng.integers(0, len(data), rng.integers(1, 20)):
                    data[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
        use.run(folder)
    return "right results"


WAYS: list[Callable[[np.random.Generator, pathlib.Path], str]] = [
    at_once, killed, no_folder, read_only, vanished, damaged
]  # fmt: skip
