"""Folders for compiled code that tests keep until the sources, numba or the processor change."""

from __future__ import annotations

import hashlib
import shutil
import sys

import llvmlite
import numba
from llvmlite import binding

from fastbn.jit import cache


def kept_folder(request, tmp_path_factory, name):
    """Return a folder in pytest's cache for the present sources; remove folders of older ones.

    Without pytest's cache, as with `-p no:cacheprovider`, it is a new one.
    """
    if getattr(request.config, "cache", None) is None:
        return tmp_path_factory.mktemp(name)
    from fastbn.jit.numba_internals import SETTINGS

    depends = (
        cache.stamp("fastbn.kernels"), sys.version, numba.__version__, llvmlite.__version__,
        [repr(getattr(numba.config, setting, None)) for setting in SETTINGS],
        binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(),
    )  # fmt: skip
    digest = hashlib.sha256(repr(depends).encode()).hexdigest()[:16]
    above = request.config.cache.mkdir(f"fastbn-{name}")
    for former in above.iterdir():
        if former.name != digest:
            shutil.rmtree(former)
    folder = above / digest
    folder.mkdir(exist_ok=True)
    return folder
