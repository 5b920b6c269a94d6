"""Trainings on such numbers: each step, and what a whole fit comes to, beside the oracle's."""

from __future__ import annotations

from typing import Any

import numpy as np
from extreme_data import COLUMNS, TOLERANCE, Array, Generator, draw, near

import fastbn
from fastbn import reference as ref
from fastbn.model.inputs import training_samples
from fastbn.reference import mlp

SIZES = (6, 8, 5, 3)


def training(rng: Generator) -> str:
    """Steps of the model, each from its own parameters: loss, gradients, running statistics.

    A kernel's tolerance in data, weights and activations moves the oracle, too: two samples that
    are near each other leave no more digits. The numbers may lie three times as far off.
    """
    dtype = "float32" if rng.random() < 0.8 else "float64"
    mode = [None, "zscore", "minmax"][rng.integers(3)]
    # not a large mean: docs/design.md says what the backward pass loses if it is not scaled
    names = list(COLUMNS) if mode else ["usual", "1e-30", "denormal", "two values"]
    model = fastbn.BatchNormMLP(
        SIZES, input_normalization=mode, dtype=dtype, batch_norm=bool(rng.random() < 0.8),
        activation=str(rng.choice(["tanh", "identity"])), weighted=bool(rng.random() < 0.3),
        seed=int(rng.integers(1000)), max_norm=1.0,
    )  # fmt: skip
    data = draw(rng, 500, SIZES[0], dtype, names)
    labels = rng.integers(0, SIZES[-1], 500)
    weight = rng.uniform(0.5, 2, 500) if model.config.weighted else None
    samples = training_samples(model, data, labels, weight)
    for _ in range(3):
        rows = rng.choice(500, int(rng.choice([2, 3, 32, 500])), replace=False)
        step = Step(model, samples, rows)
        loss, _ = model._engine.run_steps(samples, rows, np.array([0, rows.size]), np.array([1e-3]))
        step.check(rng, [loss, *(view for _, view in model.named_gradients()), *step.running()])
    assert model._engine.is_finite()
    assert np.isfinite(model.predict_logits(data)).all()
    return "training steps as the oracle's"


class Step:
    """A step that a model is about to take, for the oracle to take first."""

    def __init__(self, model: Any, samples: Any, rows: Array) -> None:
        samples = samples.arrays
        self.model, self.labels = model, samples.labels[rows]
        self.weight = samples.weight[rows] if model.config.weighted else None
        x = samples.x[rows].astype(np.float64) - samples.center
        self.x = x * samples.scale.astype(np.float64)
        self.params = {name: view.astype(np.float64) for name, view in model.named_parameters()}
        self.before = self.running()

    def running(self) -> list[Array]:
        """Return the running statistics, where there are any."""
        both = self.model.running_mean.copy(), self.model.running_var.copy()
        return list(both) if self.model.config.batch_norm else []

    def expected(
        self, params: dict[str, Array], x: Array, masks: list[Array] | None = None
    ) -> list[Array]:
        """Loss, gradients and running statistics of the oracle."""
        config, weight = self.model.config, self.weight
        logits, caches = mlp.forward(
            params, x, slope=config.slope, elementwise=config.elementwise_activation,
            eps=config.eps, masks=masks, sample_weight=weight,
        )  # fmt: skip
        loss, dlogits = ref.softmax_cross_entropy(logits, self.labels, "CN", weight)
        grads = mlp.backward(params, caches, dlogits, masks=masks)
        self.sizes = self.gradient_sizes(params, caches, dlogits)
        result = [np.array([loss]), *(grads[name] for name, _ in self.model.named_parameters())]
        if config.batch_norm:
            mean, var = (np.concatenate([c[name] for c in caches]) for name in ("mean", "var"))
            result += ref.update_running_statistics(*self.before, mean, var, len(x))
        return result

    def gradient_sizes(
        self, params: dict[str, Array], caches: list[dict[str, Any]], dlogits: Array
    ) -> list[Array]:
        """Sums of magnitudes, where a gradient is a sum: for two samples there is nothing left."""
        sizes, da, n = {}, np.abs(dlogits), dlogits.shape[1]
        for index in range(len(caches) - 1, -1, -1):
            cache, name, dz = caches[index], f"layers.{index}", da
            if "mean" in cache:
                rstd = cache["rstd"][:, None]
                xhat = np.abs(cache["z"] - cache["mean"][:, None]) * rstd
                dgamma, dbeta = (da * xhat).sum(axis=1), da.sum(axis=1)
                means = (dbeta[:, None] + xhat * dgamma[:, None]) / n
                dz = np.abs(params[f"{name}.gamma"])[:, None] * rstd * (da + 2 * means)
                sizes |= {f"{name}.gamma": dgamma, f"{name}.beta": dbeta}
            else:
                sizes[f"{name}.bias"] = da.sum(axis=1)
            sizes[f"{name}.weight"] = dz @ np.abs(cache["a_prev"]).T
            da = np.abs(params[f"{name}.weight"]).T @ dz
        return [sizes[name].max() for name, _ in self.model.named_parameters()]

    def check(self, rng: Generator, got: list[Array]) -> None:
        """Compare the model's numbers with the oracle's, and those with others nearby."""
        expected = self.expected(self.params, self.x)
        sizes = [0.0, *self.sizes, *(np.abs(values).max() for values in expected[-2:])]
        t = TOLERANCE[self.model.config.dtype]

        def rounded(array: Array) -> Array:
            return array * (1 + t * rng.uniform(-1, 1, array.shape))

        moved = [0.0] * len(expected)
        for _ in range(4):
            params = {name: rounded(values) for name, values in self.params.items()}
            masks = [rounded(np.ones((n, len(self.x)))) for n in SIZES[1:-1]]
            others = self.expected(params, rounded(self.x), masks)
            changes = [np.abs(a - b).max() for a, b in zip(others, expected, strict=True)]
            moved = np.maximum(moved, changes)
        for index, (values, wanted) in enumerate(zip(got, expected, strict=True)):
            error = t * max(sizes[index], 1.0) + 3 * moved[index]
            near(f"number {index} of a step of {len(self.x)}", values, wanted, error)


def fits(rng: Generator) -> str:
    """Whole fits: scaled data of any size trains, and what no running variance holds is refused."""
    x = draw(rng, 200, 4, np.float32, ["1e30", "constant", "usual", "1e-30", "large mean"])
    x[:, 0] = 1e30 * rng.standard_normal(200)
    y = (x[:, 0] > 0).astype(np.int64)
    mode = [None, "zscore", "minmax"][rng.integers(3)]
    model = fastbn.BatchNormMLP((4, 8, 2), input_normalization=mode, seed=int(rng.integers(1000)))
    before, layer, history = model.params.copy(), "", None
    try:
        history = model.fit(x, y, epochs=3, batch_size=50, progress=False)
    except fastbn.DivergenceError as error:
        layer = error.layer
    if mode is None:
        assert history is None
        assert layer == "layers.0", layer
        assert np.array_equal(model.params, before)
        assert model._engine.is_finite()
        return "1e30 unscaled refused, the layer named"
    assert history is not None, layer
    assert np.isfinite(history.loss).all()
    logits = model.predict_logits(x)
    wide = (x.astype(np.float64) - model.scaling.center) * model.scaling.scale.astype(np.float64)
    running = {
        f"{name}.{which}": model.layout.view(getattr(model, which), *place)
        for name, place in model.layout.statistics_places.items()
        for which in ("running_mean", "running_var")
    }
    expected = mlp.infer(dict(model.named_parameters()), running, wide, slope=model.config.slope)
    near("logits", logits.T, expected, 1e-5 * np.abs(expected).max())
    return "fits of scaled data finite"
