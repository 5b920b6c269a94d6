"""Inference: its work, and fastbn and NumPy as contestants."""

from __future__ import annotations

import numpy as np

from fastbn.bench import _work as constants
from fastbn.bench._fastbn import model_of
from fastbn.bench._work import BlasRunner, Runner, StepWork


class PredictWork(StepWork):
    """Probabilities of `batch` rows, by a network of ``sizes`` with batch norm in every layer."""

    def rows(self) -> np.ndarray:
        """Return X (batch, inputs) float32."""
        return self.data()[0][: self.batch]

    def norms(self) -> list[np.ndarray]:
        """Return gamma, beta, running mean and running variance of every layer, (4, out)."""
        generator = np.random.default_rng(4)
        low, high = np.array([[0.9], [-0.1], [-0.1], [0.8]]), np.array([[1.1], [0.1], [0.1], [1.2]])
        return [
            generator.uniform(low, high, (4, n_out)).astype(np.float32) for _, n_out in self.layers
        ]

    def folded(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weight (in, out) and bias of every layer, which include the batch norm."""
        layers = []
        for weight, (gamma, beta, mean, var) in zip(self.weights(), self.norms(), strict=True):
            scale = gamma / np.sqrt(var + np.float32(constants.EPS))
            layers.append((np.ascontiguousarray(weight.T * scale), beta - mean * scale))
        return layers


PREDICTS = [
    PredictWork(sizes, rows)
    for sizes in [(784, 256, 128, 10), (20, 64, 64, 2)]
    for rows in (1, 32, 1000)
]


class FastbnPredictor(Runner):
    """`BatchNormMLP.predict_proba`."""

    def __init__(self, work: PredictWork) -> None:
        self.x, self.model = work.rows(), model_of(work)
        parameters, norms = dict(self.model.named_parameters()), work.norms()
        for index, (gamma, beta, _, _) in enumerate(norms):
            parameters[f"layers.{index}.gamma"][...] = gamma
            parameters[f"layers.{index}.beta"][...] = beta
        self.model.running_mean[...] = np.concatenate([mean for _, _, mean, _ in norms])
        self.model.running_var[...] = np.concatenate([var for _, _, _, var in norms])

    def once(self) -> None:
        self.last = [self.model.predict_proba(self.x)]


class NumpyPredictor(BlasRunner):
    """Products with folded weights."""

    def __init__(self, work: PredictWork, threads: int) -> None:
        super().__init__(threads)
        self.x, self.layers = work.rows(), work.folded()

    def once(self) -> None:
        z = self.x @ self.layers[0][0] + self.layers[0][1]
        for weight, bias in self.layers[1:]:
            z = np.maximum(z, np.float32(constants.SLOPE) * z) @ weight + bias
        p = np.exp(z - z.max(axis=1, keepdims=True))
        self.last = [p / p.sum(axis=1, keepdims=True)]
