"""Processes of their own for a case, ended with all that they have started."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).parent

# The most that a case may take: else it hangs.
SECONDS = 150


class Child:
    """A Python process in a session of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        paths = [environment.pop("PYTHONPATH", os.environ.get("PYTHONPATH", "")), str(HERE)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.process = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def output(self) -> str:
        """Wait for its end, which has to be a good one; return what it has written."""
        try:
            output, errors = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.process.args}") from None
        finally:
            self.kill()
        code = self.process.returncode
        assert code == 0, f"exit code {code}: {errors[-2000:]}"
        return output

    def kill(self) -> None:
        """End it, and all that is left of what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def run_child(*arguments: str, **environment: str) -> str:
    """Run a Python process to its end; return what it has written."""
    return Child(*arguments, **environment).output()
