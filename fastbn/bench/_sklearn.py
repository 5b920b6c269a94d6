"""scikit-learn's contestants."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import StandardScaler

from fastbn.bench._kernel_work import Runner, ScaleWork


class Scale(Runner):
    """StandardScaler, fitted and applied."""

    def __init__(self, work: ScaleWork) -> None:
        self.x = self.last = work.data()

    def once(self) -> None:
        self.last = StandardScaler().fit_transform(self.x)

    def results(self) -> list[np.ndarray]:
        return [self.last]
