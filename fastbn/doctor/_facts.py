"""What this machine gives to fastbn: versions, cores, threads, cache, extras."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
import tempfile
from typing import Any

import fastbn
from fastbn.doctor._layers import ThreadingLayers, threading_layers

PACKAGES = ("numba", "llvmlite", "numpy", "safetensors")

# The optional extras, and the packages (by the name that is imported) each one brings.
EXTRAS = {
    "cli": ("typer", "rich"),
    "plot": ("matplotlib",),
    "data": ("pooch",),
    "sklearn": ("sklearn",),
    "torch": ("torch",),
    "bench": ("threadpoolctl",),
}
DISTRIBUTIONS = {"sklearn": "scikit-learn"}

# Environment variables that steer compiling, threads and data.
PREFIXES = ("NUMBA_", "FASTBN_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "BLIS_", "VECLIB_")

# Packages that bring a pool of threads of their own.
OTHER_POOLS = ("torch", "sklearn", "jax")

# Vector instructions worth telling about, of those that LLVM reports for this machine.
VECTOR_FEATURES = ("sse2", "avx", "avx2", "fma", "avx512f", "neon", "sve", "vsx")


@dataclasses.dataclass(frozen=True)
class Cpu:
    """The processor. `quota` is a control group's limit in cores; None where there is none."""

    name: str
    architecture: str
    vector_features: tuple[str, ...]
    cores: int
    cores_allowed: int
    quota: float | None


@dataclasses.dataclass(frozen=True)
class Cache:
    """The folder of compiled kernels; None where none can be written.

    `problem` says who else may write there, which is why the folder is not used.
    """

    folder: str | None
    writable: bool
    megabytes: float
    files: int
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that was found, without an opinion on it."""

    fastbn: str
    python: str
    platform: str
    packages: dict[str, str | None]
    cpu: Cpu
    threading: ThreadingLayers
    numba_threads: int
    team_threads: int  # the most that a training takes
    tile_rows: int  # of a matrix product, kept in registers
    jit_disabled: bool
    numba_problem: str | None  # what this numba has not got of what fastbn uses of its insides
    cache: Cache
    extras: dict[str, dict[str, str | None]]
    environment: dict[str, str]
    loaded: tuple[str, ...]


def gather() -> Facts:
    """Look at everything; nothing is compiled and no thread is started."""
    # first, since libraries set variables of their own when they are imported
    environment = {k: os.environ[k] for k in sorted(os.environ) if k.startswith(PREFIXES)}
    loaded = tuple(name for name in OTHER_POOLS if name in sys.modules)
    import numba

    from fastbn.jit.compiler import INTERNALS_PROBLEM
    from fastbn.jit.intrinsics import TILE_ROWS
    from fastbn.parallel.cores import available_threads

    config: Any = numba.config
    return Facts(
        fastbn=fastbn.__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages={name: installed_version(name) for name in PACKAGES},
        cpu=_cpu(),
        threading=threading_layers(),
        numba_threads=int(config.NUMBA_NUM_THREADS),
        team_threads=available_threads(),
        tile_rows=TILE_ROWS,
        jit_disabled=bool(config.DISABLE_JIT),
        numba_problem=INTERNALS_PROBLEM,
        cache=_cache(),
        extras={extra: {n: installed_version(n) for n in names} for extra, names in EXTRAS.items()},
        environment=environment,
        loaded=loaded,
    )


def installed_version(module: str) -> str | None:
    """Return the installed version of a package, by the name that is imported."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "unknown" if importlib.util.find_spec(module) else None


# -- processor -------------------------------------------------------------------------------------


def _cpu() -> Cpu:
    llvm: Any = importlib.import_module("llvmlite.binding")

    from fastbn.parallel.cores import allowed_cores, core_quota

    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on some machines
        features = {}
    return Cpu(
        name=_cpu_name() or llvm.get_host_cpu_name(),
        architecture=platform.machine(),
        vector_features=tuple(name for name in VECTOR_FEATURES if features.get(name)),
        cores=os.cpu_count() or 1,
        cores_allowed=allowed_cores(),
        quota=core_quota(),
    )


def _cpu_name() -> str | None:
    """Return the processor's name as Linux knows it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


# -- cache -----------------------------------------------------------------------------------------


def _cache() -> Cache:
    from fastbn.jit.cache_files import untrusted
    from fastbn.jit.compiler import cache_folder
    from fastbn.kernels.batchnorm_cn import batch_norm_forward_cn

    folder = cache_folder(batch_norm_forward_cn)  # all kernels share one folder
    if folder is None:
        return Cache(folder=None, writable=False, megabytes=0.0, files=0)
    sizes = []
    for path in [*folder.glob("*.nbi"), *folder.glob("*.nbc")]:
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # another process has just replaced it
            continue
    try:
        problem = untrusted(folder)
    except OSError:  # somebody has just removed it
        problem = None
    return Cache(
        folder=str(folder),
        writable=_is_writable(folder),
        megabytes=round(sum(sizes) / 1e6, 2),
        files=len(sizes),
        problem=problem,
    )


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
