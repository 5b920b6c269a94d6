"""Report what fastbn found on this machine, and what is slow or unsafe."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import tempfile
from collections.abc import Iterator
from typing import Any

import fastbn
from fastbn.jit import isa, numba_probe

# Packages by their import names, and the optional extra that installs each.
PACKAGES = {
    "numba": None, "llvmlite": None, "numpy": None, "safetensors": None,
    "typer": "cli", "rich": "cli", "matplotlib": "plot", "pooch": "data",
    "sklearn": "sklearn", "torch": "torch", "threadpoolctl": "bench",
}  # fmt: skip
DISTRIBUTIONS = {"sklearn": "scikit-learn"}

# Prefixes of environment variables that affect compiling, threads and data.
PREFIXES = ("NUMBA_", "FASTBN_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "BLIS_", "VECLIB_")
THREAD_LIMITS = ("FASTBN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Cpu:
    """The processor. `quota` is the limit of its control group in cores, or None.

    `cores_fast` counts the allowed cores that are fast ones, or is None if all cores are alike.
    """

    name: str
    architecture: str
    cores: int
    cores_allowed: int
    quota: float | None
    cores_fast: int | None = None

    @property
    def usable(self) -> int:
        """Number of cores that this process may keep busy, by its affinity and quota."""
        limit = self.cores_allowed if self.quota is None else -int(-self.quota // 1)
        return max(1, min(self.cores_allowed, limit))


@dataclasses.dataclass(frozen=True)
class Cache:
    """The folder of compiled kernels, or None if no folder can be written.

    `problem` says who else may write to the folder, so that it is not used.
    """

    folder: str | None
    writable: bool
    megabytes: float
    files: int
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Facts:
    """What fastbn found on this machine."""

    fastbn: str
    python: str
    platform: str
    packages: dict[str, str | None]  # versions; None if not installed
    cpu: Cpu
    instruction_set: str  # that kernels are compiled for (fastbn.jit.isa)
    numba_threads: int
    team_threads: int  # the most threads that training uses
    jit_disabled: bool
    numba_problem: str | None  # the internals of numba that are missing
    cache: Cache
    environment: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Report:
    """Facts and advice: `warnings` are problems to fix, `notes` are good to know."""

    facts: Facts
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return facts, warnings and notes as one dictionary that can be written as JSON."""
        values = dataclasses.asdict(self)
        return values.pop("facts") | values


def report() -> Report:
    """Report versions, the processor, threads and the cache.

    It compiles nothing and starts no threads.

    Returns
    -------
    Report
        Its `warnings` are empty if there are no problems.
    """
    # before the imports, since libraries set variables, too
    environment = {k: os.environ[k] for k in sorted(os.environ) if k.startswith(PREFIXES)}
    import numba

    from fastbn.jit.compiler import INTERNALS_PROBLEM
    from fastbn.parallel.cores import (
        allowed_cores,
        allowed_fast_cores,
        available_threads,
        core_quota,
    )

    config: Any = numba.config
    facts = Facts(
        fastbn=fastbn.__version__,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        packages={name: installed_version(name) for name in PACKAGES},
        cpu=Cpu(
            name=_cpu_name(),
            architecture=platform.machine(),
            cores=os.cpu_count() or 1,
            cores_allowed=allowed_cores(),
            quota=core_quota(),
            cores_fast=allowed_fast_cores(),
        ),
        instruction_set=isa.level(),
        numba_threads=int(config.NUMBA_NUM_THREADS),
        team_threads=available_threads(),
        jit_disabled=bool(config.DISABLE_JIT),
        numba_problem=INTERNALS_PROBLEM,
        cache=_cache(),
        environment=environment,
    )
    return Report(facts, tuple(warnings(facts)), tuple(notes(facts)))


def installed_version(module: str) -> str | None:
    """Return the installed version of a package by its import name."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "unknown" if importlib.util.find_spec(module) else None


def _cpu_name() -> str:
    """Return the processor's name from Linux, or else from LLVM."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    llvm: Any = importlib.import_module("llvmlite.binding")
    return str(llvm.get_host_cpu_name())


def _cache() -> Cache:
    from fastbn.jit.cache_files import untrusted
    from fastbn.jit.compiler import cache_folder
    from fastbn.kernels.batchnorm_cn import batch_norm_forward_cn

    folder = cache_folder(batch_norm_forward_cn)  # all kernels share one folder
    if folder is None:
        return Cache(folder=None, writable=False, megabytes=0.0, files=0)
    sizes = []
    for path in [*folder.glob("*.nbi"), *folder.glob("*.nbc")]:
        with contextlib.suppress(OSError):  # another process has just replaced it
            sizes.append(path.stat().st_size)
    problem = None
    with contextlib.suppress(OSError):  # another process has just removed it
        problem = untrusted(folder)
    megabytes = round(sum(sizes) / 1e6, 2)
    return Cache(str(folder), _is_writable(folder), megabytes, len(sizes), problem)


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# -- advice ----------------------------------------------------------------------------------------


def warnings(facts: Facts) -> Iterator[str]:
    """Yield what is slow or broken on this machine, and how to fix it."""
    cache, usable = facts.cache, facts.cpu.usable
    if facts.numba_problem is not None:
        yield numba_probe.advice(str(facts.packages["numba"]), facts.numba_problem)
    if facts.jit_disabled:  # then no kernels are compiled, and the cache does not matter
        yield (
            "NUMBA_DISABLE_JIT is set: kernels run as plain Python, hundreds of times slower. "
            "Unset it."
        )
    elif cache.folder is None:
        yield (
            "compiled kernels cannot be kept, because no folder can be written: every process "
            "compiles them again. Set NUMBA_CACHE_DIR to a folder that can be written."
        )
    elif cache.problem is not None:
        yield (
            f"{cache.problem}: somebody else may have put code there, so this cache is not used, "
            "and every process compiles again. Remove others' write access (chmod go-w), or set "
            "NUMBA_CACHE_DIR to a folder that only you can write to."
        )
    elif not cache.writable:
        yield (
            f"the cache {cache.folder} cannot be written: every process compiles kernels that are "
            "not in it again. Set NUMBA_CACHE_DIR to a folder that can be written."
        )
    limits = [name for name in THREAD_LIMITS if facts.environment.get(name) == "1"]
    if limits and usable > 1:
        yield (
            f"{', '.join(limits)} set to 1: this may limit fastbn to one of {usable} cores. "
            "Unset it, unless several processes share this machine."
        )
    if facts.numba_threads > usable:
        yield (
            f"numba would start {facts.numba_threads} threads on {usable} usable cores. "
            f"Set NUMBA_NUM_THREADS={usable}."
        )


def notes(facts: Facts) -> Iterator[str]:
    """Yield what is good to know."""
    fast, allowed = facts.cpu.cores_fast, facts.cpu.cores_allowed
    if fast == 0:
        yield (
            "this process may run on slow cores of this hybrid processor only. Change its affinity "
            "(taskset) to let it use fast ones"
        )
    elif fast is not None and fast < allowed:
        yield (
            f"{fast} of {allowed} cores are fast, and a team has at most {fast} threads, since a "
            "slow core would delay the others. FASTBN_NUM_THREADS sets another number"
        )
    folder, wanted = facts.cache.folder, facts.environment.get("NUMBA_CACHE_DIR")
    if folder is None:
        return
    if wanted and not pathlib.Path(folder).resolve().is_relative_to(pathlib.Path(wanted).resolve()):
        yield (
            f"NUMBA_CACHE_DIR={wanted} cannot be written: compiled kernels are kept in {folder} "
            "instead"
        )
    if facts.cache.files == 0:
        yield "the cache is empty: the first training compiles for some seconds, later ones do not"
