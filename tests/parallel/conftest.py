"""Fixtures for the tests of threads."""

from __future__ import annotations

import pytest

from fastbn.parallel import cores


@pytest.fixture
def free(monkeypatch):
    """Remove all limits except those that a test sets; there are eight cores, all alike."""
    for name in ("FASTBN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)
    monkeypatch.setattr(cores, "core_quota", lambda: None)
    monkeypatch.setattr(cores, "fast_cores", frozenset)
    return monkeypatch
