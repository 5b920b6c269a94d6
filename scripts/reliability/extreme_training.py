"""Training on extreme numbers, compared with the oracle: single steps and whole fits."""

from __future__ import annotations

import numpy as np
from extreme_data import COLUMNS, Generator, draw, near

import fastbn
from fastbn import reference as ref
from fastbn.model.inputs import training_samples
from fastbn.reference import mlp

SIZES = (6, 8, 5, 3)

# The largest error measured is 3e-10, in batches of two samples that are close together.
STEP_TOLERANCE = 1e-8


def training(rng: Generator) -> str:
    """Check steps of a float64 model: loss, gradients and running statistics."""
    mode = [None, "zscore", "minmax"][rng.integers(3)]
    # no large mean without scaling: the backward pass loses digits (docs/design.md)
    names = list(COLUMNS) if mode else ["usual", "1e-30", "denormal", "two values"]
    model = fastbn.BatchNormMLP(
        SIZES, input_normalization=mode, dtype="float64", batch_norm=bool(rng.random() < 0.8),
        activation=str(rng.choice(["tanh", "identity"])), weighted=bool(rng.random() < 0.3),
        seed=int(rng.integers(1000)), max_norm=1.0,
    )  # fmt: skip
    config = model.config
    data, labels = draw(rng, 500, SIZES[0], "float64", names), rng.integers(0, SIZES[-1], 500)
    weights = rng.uniform(0.5, 2, 500) if config.weighted else None
    samples = training_samples(model, data, labels, weights)
    arrays = samples.arrays
    for _ in range(3):
        rows = rng.choice(500, int(rng.choice([2, 3, 32, 500])), replace=False)
        weight = arrays.weight[rows] if config.weighted else None
        params = {name: view.copy() for name, view in model.named_parameters()}
        logits, caches = mlp.forward(
            params, (arrays.x[rows] - arrays.center) * arrays.scale, slope=config.slope,
            elementwise=config.elementwise_activation, eps=config.eps, sample_weight=weight,
        )  # fmt: skip
        loss, dlogits = ref.softmax_cross_entropy(logits, arrays.labels[rows], "CN", weight)
        expected = {"loss": [loss], **mlp.backward(params, caches, dlogits)}
        if config.batch_norm:
            mean, var = (np.concatenate([c[name] for c in caches]) for name in ("mean", "var"))
            before = model.running_mean.copy(), model.running_var.copy()
            updated = ref.update_running_statistics(*before, mean, var, rows.size)
            expected |= zip(("running mean", "running variance"), updated, strict=True)
        losses, _ = model._engine.run_steps(
            samples, rows, np.array([0, rows.size]), np.array([1e-3])
        )
        got = {"loss": losses, **dict(model.named_gradients())}
        got |= {"running mean": model.running_mean, "running variance": model.running_var}
        for name, values in expected.items():
            error = STEP_TOLERANCE * max(1.0, np.abs(values).max())
            near(f"{name} of a step of {rows.size}", got[name], values, error)
    assert model._engine.is_finite()
    assert np.isfinite(model.predict_logits(data)).all()
    return "training steps as the oracle's"


def fits(rng: Generator) -> str:
    """Check fits: scaled data of any size trains; a variance beyond float32 is refused."""
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
