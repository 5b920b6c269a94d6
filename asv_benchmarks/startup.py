"""Whole processes: the import, and the first step with and without cached kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .common import find

FIRST_STEP = """
import numpy as np
import fastbn
x = np.random.default_rng(0).standard_normal((64, 20), np.float32)
fastbn.BatchNormMLP((20, 64, 64, 2)).partial_fit(x, np.arange(64) % 2)
"""


class Import:
    """asv runs the text that a `timeraw_` method returns in a new interpreter."""

    timeout = 300.0
    repeat = 5
    number = 1

    def timeraw_numpy(self) -> str:
        return "import numpy"

    def timeraw_fastbn(self) -> str:
        return "import fastbn"


class FirstStep:
    """Import fastbn and take one training step."""

    timeout = 600.0
    number = 1
    rounds = 1
    warmup_time = 0.0

    def setup(self) -> None:
        find("BatchNormMLP")
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self) -> None:
        self.folder.cleanup()

    def run(self, cache: str | None) -> None:
        environment = dict(os.environ)
        if cache is not None:
            environment["NUMBA_CACHE_DIR"] = cache
        subprocess.run([sys.executable, "-c", FIRST_STEP], check=True, env=environment)


class FirstStepWarm(FirstStep):
    repeat = 5

    def setup(self) -> None:
        super().setup()
        self.run(None)

    def time_first_step(self) -> None:
        self.run(None)


class FirstStepCold(FirstStep):
    repeat = 1

    def time_first_step(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder.name) as cache:
            self.run(cache)
