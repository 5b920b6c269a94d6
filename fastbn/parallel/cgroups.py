"""How many cores Linux control groups leave to this process."""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterator


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
