"""How many cores a process may use: users' limits, quotas of control groups, fast cores.

The tests make trees of files like Linux's, for both versions of control groups and for hybrid
processors.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastbn
from fastbn.parallel import cores
from fastbn.parallel.cores import find_fast_cores, smallest_quota

# Lines of /proc/self/cgroup.
V2 = "0::/user.slice/job.scope\n"
V1 = "12:memory:/elsewhere\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"

TREES = {
    "nothing": ({}, None),
    "version 2, the root of a container": ({"cpu.max": "150000 100000\n"}, 1.5),
    "version 2 without a quota": ({"cpu.max": "max 100000\n"}, None),
    "version 2, this group": ({"proc": V2, "user.slice/job.scope/cpu.max": "250000 100000"}, 2.5),
    "version 2, a group above": (
        {
            "proc": V2,
            "user.slice/job.scope/cpu.max": "max 100000",
            "user.slice/cpu.max": "300000 100000",
        },
        3.0,
    ),
    "version 2, the smallest": (
        {
            "proc": V2,
            "user.slice/job.scope/cpu.max": "400000 100000",
            "user.slice/cpu.max": "50000 100000",
            "cpu.max": "200000 100000",
        },
        0.5,
    ),
    "version 2, other groups": ({"proc": V2, "user.slice/other/cpu.max": "100000 100000"}, None),
    "version 1, the root of a container": (
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2.0,
    ),
    "version 1 without a quota": (
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "version 1, this group and the one above": (
        {
            "proc": V1,
            "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "75000",
            "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "50000",
            "cpu,cpuacct/docker/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
        },
        1.5,
    ),
    "version 1, a group above": (
        {
            "proc": V1,
            "cpu/docker/abc/cpu.cfs_quota_us": "400000",
            "cpu/docker/abc/cpu.cfs_period_us": "100000",
            "cpu/docker/cpu.cfs_quota_us": "100000",
            "cpu/docker/cpu.cfs_period_us": "100000",
        },
        1.0,
    ),
    "version 1, named as the host sees it": (
        {"proc": V1, "cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "200000"},
        0.5,
    ),
    "both versions": (
        {
            "proc": V1 + "0::/docker/abc\n",
            "unified/docker/abc/cgroup.procs": "1",
            "cpu/docker/abc/cpu.cfs_quota_us": "300000",
            "cpu/docker/abc/cpu.cfs_period_us": "100000",
        },
        3.0,
    ),
    "both versions, processors by version 2": (
        {"proc": "0::/a\n3:memory:/b\n", "unified/a/cpu.max": "100000 100000"},
        1.0,
    ),
    "a group out of sight": ({"proc": "0::/../job\n", "cpu.max": "200000 100000"}, 2.0),
    "what is malformed": (
        {"proc": "nonsense\n", "cpu.max": "1 0", "cpu/cpu.cfs_quota_us": "much"},
        None,
    ),
}


@pytest.mark.parametrize(("files", "expected"), TREES.values(), ids=TREES)
def test_quotas(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / ("proc/self/cgroup" if name == "proc" else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert smallest_quota(tmp_path) == expected


# -- hybrid processors -----------------------------------------------------------------------------


def capacities(*numbers):
    """Return the files of an ARM processor whose cores have these capacities."""
    return {f"system/cpu/cpu{n}/cpu_capacity": f"{c}\n" for n, c in enumerate(numbers)}


PROCESSORS = {
    "nothing": ({}, set()),
    "Intel": ({"cpu_core/cpus": "0-7,16\n", "cpu_atom/cpus": "8-15\n"}, {*range(8), 16}),
    "Intel, one fast core": ({"cpu_core/cpus": "0\n", "cpu_atom/cpus": "1-4\n"}, {0}),
    "ARM, three capacities": (capacities(1024, 871, 780, 780, 325, 325, 325, 325), {0, 1, 2, 3}),
    "ARM, little cores first": (capacities(446, 446, 1024, 1024), {2, 3}),
    "ARM, half the capacity": (capacities(1024, 512, 511), {0, 1}),
    "ARM, more than ten cores": (capacities(*[250] * 10, 1024, 1024), {10, 11}),
    "ARM, cores alike": (capacities(1024, 1024), set()),
    "ARM, cores about alike": (capacities(1024, 870), set()),
    "Intel, malformed": ({"cpu_core/cpus": "0-many\n"}, set()),
    "Intel, absurd": ({"cpu_core/cpus": "0-99999999999\n"}, set()),
    "Intel, empty": ({"cpu_core/cpus": "\n", "cpu_atom/cpus": "0-3\n"}, set()),
    "Intel's malformed, ARM's not": ({"cpu_core/cpus": "?", **capacities(1024, 250)}, {0}),
    "ARM, absurd": (capacities(10**400, 1), set()),
    "ARM, malformed": (capacities(1024, 250, "much"), set()),
}


@pytest.mark.parametrize(("files", "expected"), PROCESSORS.values(), ids=PROCESSORS)
def test_fast_cores(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / "sys/devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "sys/devices/system/cpu/cpufreq").mkdir(parents=True)  # is not a core
    assert find_fast_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("mask", "fast", "threads"),
    [
        (range(8), 4, 4),
        ({1, 2, 6, 7}, 2, 2),  # some fast cores
        ({3}, 1, 1),
        ({4, 5, 6}, 0, 8),  # slow cores only: all of them count (`free` says that there are eight)
    ],
)
def test_fast_cores_of_the_affinity_mask_count(free, mask, fast, threads):
    free.setattr(cores, "fast_cores", lambda: frozenset(range(4)))
    free.setattr(cores.os, "sched_getaffinity", lambda pid: set(mask), raising=False)
    assert cores.allowed_fast_cores() == fast
    assert cores.available_threads() == threads
    free.setenv("FASTBN_NUM_THREADS", "7")
    assert cores.available_threads() == 7


def test_cores_that_are_alike_all_count(free):
    assert cores.allowed_fast_cores() is None
    assert cores.available_threads() == 8


def test_files_of_the_system_are_read_once(monkeypatch):
    reads = []
    for name in ("find_fast_cores", "smallest_quota"):
        monkeypatch.setattr(cores, name, reads.append)
    caches = [cores.fast_cores, cores.core_quota]
    for cache in caches:
        cache.cache_clear()
    try:
        cores.available_threads()
        assert len(reads) == 2
        cores.available_threads()
        assert len(reads) == 2
    finally:
        for cache in caches:
            cache.cache_clear()


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("FASTBN_NUM_THREADS", "12", 12),
        ("NUMBA_NUM_THREADS", "3", 3),
        ("OMP_NUM_THREADS", "4,2", 4),
        ("OMP_NUM_THREADS", "", 8),
    ],
)
def test_users_limit_the_threads(free, variable, text, expected):
    free.setenv(variable, text)
    assert cores.available_threads() == expected


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_limit_that_is_not_a_positive_integer_is_refused(free, text):
    free.setenv("FASTBN_NUM_THREADS", text)
    with pytest.raises(ValueError, match="FASTBN_NUM_THREADS: expected a whole number.*" + text):
        cores.available_threads()


def test_a_refused_limit_leaves_the_model_as_it_was(rng, monkeypatch):
    model = fastbn.BatchNormMLP((3, 4, 2))
    x, y = rng.standard_normal((8, 3)), np.arange(8) % 2
    monkeypatch.setenv("FASTBN_NUM_THREADS", "none")
    with pytest.raises(ValueError, match="FASTBN_NUM_THREADS"):
        model.train_step(x, y)
    monkeypatch.delenv("FASTBN_NUM_THREADS")
    assert model.steps == 0
    assert np.isfinite(model.train_step(x, y))


def test_a_control_group_limits_the_threads(free):
    for quota, expected in ((2.0, 2), (2.9, 2), (0.5, 1)):
        free.setattr(cores, "core_quota", lambda quota=quota: quota)
        assert cores.available_threads() == expected
