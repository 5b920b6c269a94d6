"""How many cores this process may use: affinity, fast cores, the user's limits, and CPU quotas."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import pathlib
from collections.abc import Iterator

_most: contextvars.ContextVar[int | None] = contextvars.ContextVar("most threads", default=None)


@contextlib.contextmanager
def at_most(threads: int | None) -> Iterator[None]:
    """Context that limits the threads of teams; None keeps the limit as it is."""
    token = _most.set(_most.get() if threads is None else threads)
    try:
        yield
    finally:
        _most.reset(token)


def available_threads() -> int:
    """Return the largest number of threads that a team may have.

    If `FASTBN_NUM_THREADS` is set, it is the size of every team. Otherwise this is the number of
    cores that the process may run on, limited by control groups, `NUMBA_NUM_THREADS`,
    `OMP_NUM_THREADS` and `at_most`. On a hybrid processor only the fast cores count, if there are
    any among them.
    """
    wanted = thread_limit("FASTBN_NUM_THREADS")
    most = _most.get()
    if wanted is not None:
        return wanted if most is None else min(wanted, most)
    limits = [
        most,
        thread_limit("NUMBA_NUM_THREADS"),
        thread_limit("OMP_NUM_THREADS"),
        allowed_cores(),
        allowed_fast_cores() or None,
        core_quota(),
    ]
    return max(1, int(min([limit for limit in limits if limit is not None])))


def thread_limit(name: str) -> int | None:
    """Return the number of threads in an environment variable, or None if it is not set."""
    # OpenMP accepts a list: one number for each level of nested regions
    text = os.environ.get(name)
    text = text and text.split(",")[0].strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name}: expected a whole number of threads from 1, got {text!r:.200}")
    return int(text)


def allowed_cores() -> int:
    """Return how many cores this process may run on, fast or slow."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- hybrid processors (Linux) ---------------------------------------------------------------------

# On ARM, a core is fast if its capacity is at least this fraction of the largest one. The members
# of a team have equal shares, so with cores of half the speed a team would have to be twice as
# large to be as fast as with the fast cores alone. Cores of 0.7 to 0.9, next to a single faster
# one, count.
FAST_CAPACITY = 0.5

# A list with a larger number is not taken for a list of cores.
MOST_CORES = 1 << 16


def allowed_fast_cores() -> int | None:
    """Return how many fast cores this process may run on; None if all cores are alike."""
    fast = fast_cores()
    return len(fast & os.sched_getaffinity(0)) if fast else None


@functools.cache  # every training call needs it
def fast_cores() -> frozenset[int]:
    """Return the numbers of a hybrid processor's fast cores; none if all cores are alike."""
    return find_fast_cores(pathlib.Path("/"))


def find_fast_cores(root: pathlib.Path) -> frozenset[int]:
    """Return the numbers of the fast cores, or nothing if the system does not report them."""
    devices = root / "sys/devices"
    with contextlib.suppress(OSError, ValueError):
        return _core_list((devices / "cpu_core/cpus").read_text())  # Intel's hybrid processors
    with contextlib.suppress(OSError, ValueError, OverflowError):
        capacities = {
            int(path.parent.name.removeprefix("cpu")): int(path.read_text())
            for path in (devices / "system/cpu").glob("cpu[0-9]*/cpu_capacity")
        }
        least = FAST_CAPACITY * max(capacities.values(), default=0)
        fast = frozenset(core for core, capacity in capacities.items() if capacity >= least)
        return fast if len(fast) < len(capacities) else frozenset()
    return frozenset()


def _core_list(text: str) -> frozenset[int]:
    """Return the numbers in a list such as "0-7,16"."""
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) > MOST_CORES:
            raise ValueError(f"expected numbers of cores, got {text!r:.200}")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


# -- control groups (Linux) ------------------------------------------------------------------------

# Controllers, and the folders where systems mount them; "" is version 2 of control groups.
MOUNTS = [("", ""), ("", "unified"), ("cpu", "cpu"), ("cpu", "cpu,cpuacct")]


@functools.cache  # every training call needs it
def core_quota() -> float | None:
    """Return how many cores this process may use: CPU quota / period; None without a quota."""
    return smallest_quota(pathlib.Path("/"))


def smallest_quota(root: pathlib.Path) -> float | None:
    """Return the smallest quota of this process's groups and their parents, in cores, or None."""
    return min(_quotas(root), default=None)


def _quotas(root: pathlib.Path) -> Iterator[float]:
    groups = _groups(root)
    for controller, name in MOUNTS:
        mount = root / "sys/fs/cgroup" / name
        # in a container, this may be the host's name of the group: then only the mount exists
        group = mount / groups[controller].lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(mount):
                with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no quota, "max"
                    quota, period = _quota_in(folder, controller)
                    if quota > 0:  # -1: no quota
                        yield quota / period


def _quota_in(folder: pathlib.Path, controller: str) -> tuple[float, float]:
    """Return quota and period of one group, both in microseconds."""
    if controller == "cpu":
        return (
            float((folder / "cpu.cfs_quota_us").read_text()),
            float((folder / "cpu.cfs_period_us").read_text()),
        )
    quota, period = (folder / "cpu.max").read_text().split()
    return float(quota), float(period)


def _groups(root: pathlib.Path) -> dict[str, str]:
    """Return this process's groups by controller; "" is the group of version 2."""
    groups = {"": "/", "cpu": "/"}
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), group))
    return groups
