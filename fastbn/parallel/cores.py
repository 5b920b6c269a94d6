"""How many cores this process may use: affinity, limits of its user's, quotas of control groups."""

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
    """Context in which teams have so many threads at most; None leaves it as it is."""
    token = _most.set(_most.get() if threads is None else threads)
    try:
        yield
    finally:
        _most.reset(token)


def available_threads() -> int:
    """Return the most threads that a team may have.

    `FASTBN_NUM_THREADS`, where it is set, and every team then has so many. Else the
    cores of this process, or fewer where a control group, `NUMBA_NUM_THREADS`, `OMP_NUM_THREADS` or
    `at_most` says so.
    """
    wanted = thread_limit("FASTBN_NUM_THREADS")
    if wanted is not None:
        return min(wanted, _most.get() or wanted)
    limits = [
        _most.get(),
        thread_limit("NUMBA_NUM_THREADS"),
        thread_limit("OMP_NUM_THREADS"),
        allowed_cores(),
    ]
    quota = core_quota()
    if quota is not None:
        limits.append(int(quota))
    return max(1, min(limit for limit in limits if limit is not None))


def thread_limit(name: str) -> int | None:
    """Return the number of threads that a variable of the environment says; None without one."""
    text = os.environ.get(name, "").split(",")[0].strip()  # OpenMP takes a list, level by level
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name}: expected a whole number of threads from 1, got {text!r:.200}")
    return int(text)


def allowed_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- control groups --------------------------------------------------------------------------------


@functools.cache  # read once: every training call asks
def core_quota() -> float | None:
    """Return how many cores this process may use: CPU quota / period; None without a quota."""
    return smallest_quota(pathlib.Path("/"))


def smallest_quota(root: pathlib.Path) -> float | None:
    """Return the smallest quota of this process's groups and those above them, in cores."""
    return min(_quotas(root), default=None)


def _quotas(root: pathlib.Path) -> Iterator[float]:
    groups = _groups(root)
    for controller, mount in _mounts(root):
        for folder in _upwards(root / mount.lstrip("/"), groups[controller]):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # none, or "max"
                if controller == "cpu":
                    quota = (folder / "cpu.cfs_quota_us").read_text()
                    period = (folder / "cpu.cfs_period_us").read_text()
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
                if float(quota) > 0:  # -1 is none
                    yield float(quota) / float(period)


def _mounts(root: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yield where hierarchies are mounted: "cpu" and the folder in version 1, or "" in version 2.

    Such a line is "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu" (proc(5)).
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            mount, system = line.split(" - ", 1)
            kind, _, options = system.split(" ")
            folder = mount.split(" ")[4].replace("\\040", " ")
            if kind == "cgroup2":
                yield "", folder
            elif kind == "cgroup" and "cpu" in options.split(","):
                yield "cpu", folder


def _groups(root: pathlib.Path) -> dict[str, str]:
    """Return this process's group of each controller of version 1, and "" for version 2."""
    groups = {"": "/", "cpu": "/"}
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def _upwards(mount: pathlib.Path, group: str) -> Iterator[pathlib.Path]:
    """Yield the folders of a group and of all above it.

    In a container the group may be named as the host sees it, and only the mount itself be there.
    """
    folder = mount / group.lstrip("/")
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder
