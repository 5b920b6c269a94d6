"""What `fastbn doctor` advises: rules from facts to sentences, one rule after the other."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from fastbn.doctor._facts import Facts

THREAD_LIMITS = ("FASTBN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")

PURPOSE = "fastbn's own parallel kernels take turns and are safe; your numba code may not be"


def warnings(facts: Facts) -> Iterator[str]:
    """Yield what is slow or broken here, and how to mend it."""
    usable = usable_cores(facts)
    if facts.jit_disabled:
        yield (
            "NUMBA_DISABLE_JIT is set: kernels run as plain Python, hundreds of times slower. "
            "Unset it."
        )
    if facts.numba_problem is not None:
        yield (
            f"numba {facts.packages['numba']} has changed what fastbn uses of its insides "
            f"({facts.numba_problem}): kernels take longer to compile, and the last bits of "
            "results may differ from process to process. Install a numba that fastbn's "
            "requirements allow."
        )
    if facts.jit_disabled:
        pass  # and so nothing is compiled that could be kept
    elif facts.cache.folder is None:
        yield (
            "compiled kernels cannot be kept: no folder can be written, and every process compiles "
            "again. Set NUMBA_CACHE_DIR to a folder that can be."
        )
    elif facts.cache.problem is not None:
        yield (
            f"{facts.cache.problem}: code from there could be anybody's, so this cache is not "
            "used, and every process compiles again. Let nobody else write there (chmod go-w), or "
            "set NUMBA_CACHE_DIR to a folder that only you can write to."
        )
    elif not facts.cache.writable:
        yield (
            f"the cache {facts.cache.folder} cannot be written: kernels it does not hold yet are "
            "compiled again by every process. Set NUMBA_CACHE_DIR to a folder that can be written."
        )
    yield from _threading_warnings(facts)
    yield from _thread_count_warnings(facts, usable)


def notes(facts: Facts) -> Iterator[str]:
    """Yield what is well to know."""
    layer = facts.threading.chosen
    if layer == "workqueue":
        yield (
            "numba would use its workqueue layer: two threads that run parallel numba code at once "
            f"abort the process ({PURPOSE}). The system's OpenMP library gives another layer: "
            "libgomp1 on Debian, libgomp on Fedora."
        )
    if layer == "omp" and facts.platform.startswith("Linux"):
        yield (
            "numba would use GNU OpenMP: a process forked after a parallel region dies in its next "
            "one (fastbn computes serially in such a child; your numba code does not). "
            "Start workers by spawn or forkserver."
        )
    wanted = facts.environment.get("NUMBA_CACHE_DIR")
    if wanted and facts.cache.folder and not _is_inside(facts.cache.folder, wanted):
        yield (
            f"NUMBA_CACHE_DIR={wanted} cannot be written: compiled kernels are kept in "
            f"{facts.cache.folder} instead"
        )
    if facts.cache.folder is not None and facts.cache.files == 0:
        yield "the cache is empty: the first training compiles for some seconds, later ones do not"
    for package in facts.loaded:
        yield f"{package} is loaded in this process, and has a pool of threads of its own"


def usable_cores(facts: Facts) -> int:
    """How many cores this process may keep busy: affinity, and the quota rounded up."""
    quota = facts.cpu.quota
    limit = facts.cpu.cores_allowed if quota is None else -int(-quota // 1)
    return max(1, min(facts.cpu.cores_allowed, limit))


def _threading_warnings(facts: Facts) -> Iterator[str]:
    if facts.threading.chosen is None:
        yield (
            f"numba finds no threading layer for NUMBA_THREADING_LAYER="
            f"{facts.threading.requested}: its parallel code fails. Unset the variable."
        )


def _thread_count_warnings(facts: Facts, usable: int) -> Iterator[str]:
    limits = [name for name in THREAD_LIMITS if facts.environment.get(name) == "1"]
    if limits and usable > 1:
        yield (
            f"{', '.join(limits)} set to 1: where that applies, one of {usable} cores is used. "
            "Unset it, unless several processes share this machine."
        )
    if facts.numba_threads > usable:
        yield (
            f"numba would start {facts.numba_threads} threads on {usable} usable cores. "
            f"Set NUMBA_NUM_THREADS={usable}."
        )


def _is_inside(path: str, folder: str) -> bool:
    return pathlib.Path(path).resolve().is_relative_to(pathlib.Path(folder).resolve())
