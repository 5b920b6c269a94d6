"""Groups of tests: their order, and which tests run alone under pytest-xdist."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from cases import JIT_DISABLED

pytest.importorskip("fcntl", reason="this system has no such locks")
pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is computed here")

TESTS = pathlib.Path(__file__).parent

# A test that checks whether it could take a shared or an exclusive lock while it runs.
LOOKING = """
import fcntl
import pytest

@pytest.mark.{mark}
def test_locked():
    locked = []
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        with open({conftest!r}) as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                locked.append(False)
            except BlockingIOError:
                locked.append(True)
    assert locked == {locked}
"""


def test_what_compiles_is_first_and_what_measures_time_last_and_alone(tmp_path):
    shutil.copy(TESTS / "conftest.py", tmp_path)
    shared, alone = [False, True], [True, True]
    groups = {
        "a": ("timing", alone),
        "b": ("filterwarnings('error')", shared),
        "c": ("compiles", shared),
    }
    for name, (mark, locked) in groups.items():
        code = LOOKING.format(mark=mark, conftest=str(tmp_path / "conftest.py"), locked=locked)
        (tmp_path / f"test_{name}.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-n", "1", "-v", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(TESTS.parent / "pyproject.toml"), str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"PASSED .*test_(\w)\.py::", done.stdout) == ["c", "b", "a"]
