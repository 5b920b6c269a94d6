"""Peak memory of a process that takes a large step, with fastbn and with the NumPy oracle."""

from __future__ import annotations

import itertools
import os

import numpy as np

from .common import find, normal

SIZES = (784, 256, 10)
ROWS = 6000


class Step:
    """One step on 6,000 samples of 784 features."""

    timeout = 300.0

    def setup(self) -> None:
        find("BatchNormMLP"), find("reference_mlp.forward")
        os.environ["FASTBN_NUM_THREADS"] = "1"
        self.x, self.y = normal(ROWS, SIZES[0]), np.arange(ROWS) % SIZES[-1]

    def peakmem_data(self) -> None:
        """Python, NumPy and the data, which the others need, too."""

    def peakmem_model(self) -> None:
        find("BatchNormMLP")(SIZES).partial_fit(self.x, self.y)

    def peakmem_reference(self) -> None:
        oracle, softmax = find("reference_mlp.forward"), find("reference.softmax_cross_entropy")
        params = {}
        for index, (n_in, n_out) in enumerate(itertools.pairwise(SIZES)):
            params[f"layers.{index}.weight"] = normal(n_out, n_in, dtype="float64")
            params[f"layers.{index}.gamma"] = np.ones(n_out)
            params[f"layers.{index}.beta"] = np.zeros(n_out)
        logits, caches = oracle(params, self.x, slope=0.01)
        dlogits = softmax(logits.T, self.y)[1].T
        find("reference_mlp.backward")(params, caches, dlogits)
