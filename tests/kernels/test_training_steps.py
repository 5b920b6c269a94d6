"""Fifty training steps of the model and the oracle: all losses, and the final parameters."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from cases import JIT_DISABLED, assert_close, note_error

import fastbn
from fastbn import reference as ref
from fastbn.model import engine
from fastbn.model.inputs import training_samples
from fastbn.options import Activation, Optimizer
from fastbn.parallel import team
from fastbn.reference import mlp

STEPS = 4 if JIT_DISABLED else 50
SIZES = (5, 8, 7, 3)

VARIANTS = [
    {"gradient": "detached"},
    {"batch_norm": False},
    {"batch_norm_output": False, "activation": "relu"},
    {"activation": "identity", "momentum": 0.3},
    {"optimizer": "adamw", "weight_decay": 0.1, "max_norm": 0.5},
    {"optimizer": "adam", "weight_decay": 0.1, "betas": (0.8, 0.95), "optimizer_eps": 1e-4},
    {"optimizer": "sgd", "weight_decay": 0.01, "lr": 0.05},
    {"optimizer": "rmsprop", "betas": (0.9, 0.95)},
    {"dropout": 0.3, "negative_slope": 0.2},
    {"input_normalization": "zscore"},
    {"input_normalization": "minmax"},
    {"label_smoothing": 0.1},
    {"weighted": True},
    {"weighted": True, "gradient": "detached", "unbiased": False, "loss": "squared_error"},
    {"weighted": True, "batch_norm": False},
    {"optimizer": "sgd", "nesterov": True, "lr": 0.05},
    {"optimizer": "adamw", "weight_decay": 0.1, "decay_vectors": False},
    {"loss": "sigmoid_cross_entropy"},
    {"loss": "sigmoid_cross_entropy", "label_smoothing": 0.2, "dropout": 0.3},
    {"loss": "squared_error"},
    {"loss": "squared_error", "batch_norm": False, "max_norm": 0.5},
    *({"activation": name} for name in get_args(Activation)),
    *({"activation": name, "batch_norm": False, "dropout": 0.3} for name in get_args(Activation)),
    *({"optimizer": name, "weight_decay": 0.02} for name in get_args(Optimizer)),
    {"activation": "tanh", "weighted": True, "gradient": "detached"},
    {"activation": "logistic", "loss": "squared_error"},
]


class Oracle:
    """The same training in float64 NumPy, starting from the model's initial weights."""

    def __init__(self, model):
        self.config = model.config
        self.params = {name: view.astype(np.float64) for name, view in model.named_parameters()}
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}
        units = [n for i, n in enumerate(SIZES[1:]) if self.config.normalized(i)]
        self.running = [(np.zeros(n), np.ones(n)) for n in units]
        self.steps = 0

    def step(self, x, labels, weight=None):
        config = self.config
        self.steps += 1
        masks = None
        if config.dropout:
            masks = [
                ref.dropout_mask((n, len(x)), config.dropout, config.seed, self.steps, i)
                for i, n in enumerate(SIZES[1:-1])
            ]
        logits, caches = mlp.forward(
            self.params, x, slope=config.slope, elementwise=config.elementwise_activation,
            eps=config.eps,
            masks=masks, sample_weight=weight if config.weighted else None,
        )  # fmt: skip
        if config.loss == "squared_error":
            loss, dlogits = ref.squared_error(logits, labels.T, "CN", weight)
        else:
            labels = labels if config.predicts_one_class else labels.T
            loss, dlogits = getattr(ref, config.loss)(
                logits, labels, "CN", weight, config.label_smoothing
            )
        grads = mlp.backward(self.params, caches, dlogits, gradient=config.gradient, masks=masks)
        self.running = [
            ref.update_running_statistics(
                *running, c["mean"], c["var"], len(x), config.momentum, unbiased=config.unbiased
            )
            for running, c in zip(self.running, [c for c in caches if "mean" in c], strict=True)
        ]
        self.update(grads)
        return loss

    def update(self, grads):
        config = self.config
        if config.max_norm is not None:  # the norm of all gradients
            flat = ref.clip(np.concatenate([g.ravel() for g in grads.values()]), config.max_norm)
            parts = np.split(flat, np.cumsum([g.size for g in grads.values()])[:-1])
            grads = {
                name: part.reshape(grads[name].shape)
                for name, part in zip(grads, parts, strict=True)
            }
        for name, p in self.params.items():
            g, m, v = grads[name], self.m[name], self.v[name]
            decays = config.decay_vectors or name.endswith("weight")
            weight_decay = config.weight_decay if decays else 0.0
            settings = ref.Settings(
                step=self.steps, lr=config.lr, betas=config.betas, eps=config.optimizer_eps,
                nesterov=config.nesterov, weight_decay=weight_decay,
            )  # fmt: skip
            self.params[name], self.m[name], self.v[name] = ref.optimizer_step(
                config.optimizer, p, g, m, v, settings
            )


def scaled(x, mode):
    """Return inputs after the oracle's normalization."""
    if mode == "zscore":
        return ref.standardize(x)
    return ref.min_max_scale(x) if mode == "minmax" else x


def make_data(rng, n, loss="softmax_cross_entropy"):
    x = 3 + 2 * rng.standard_normal((n, SIZES[0]))
    labels = (x[:, 0] > 3).astype(np.int64) + (x[:, 1] > 4)
    if loss == "sigmoid_cross_entropy":
        return x, x[:, : SIZES[-1]] > [3, 4, 2]
    if loss == "squared_error":
        return x, x[:, : SIZES[-1]] ** 2 / 10 - 1
    return x, labels


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64(rng, variant, weighted):
    x, labels = make_data(rng, 100, variant.get("loss"))
    weight = rng.uniform(0, 2, 100) if weighted else None
    model = fastbn.BatchNormMLP(SIZES, dtype="float64", seed=3, **({"lr": 0.01} | variant))
    oracle = Oracle(model)
    samples = training_samples(model, x, labels, weight)
    x_scaled = scaled(x, variant.get("input_normalization"))
    # minibatches of several sizes, in no particular order
    order = rng.permutation(100)
    bounds = np.array([0, 37, 68, 70, 100])
    for first in range(0, STEPS, 4):
        steps = min(4, STEPS - first)
        losses, _ = model._engine.run_steps(
            samples, order, bounds[: steps + 1], np.full(steps, model.config.lr)
        )
        for s in range(steps):
            rows = order[bounds[s] : bounds[s + 1]]
            expected = oracle.step(
                x_scaled[rows], labels[rows], None if weight is None else weight[rows]
            )
            assert abs(losses[s] - expected) <= 1e-8 * max(1.0, expected)
    for name, view in model.named_parameters():
        assert_close(view, oracle.params[name], tolerance=1e-7)
    layout = model.layout
    if model.config.batch_norm:
        places = layout.statistics_places.values()
        means = [layout.view(model.running_mean, *place) for place in places]
        variances = [layout.view(model.running_var, *place) for place in places]
        for mean, var, (expected_mean, expected_var) in zip(
            means, variances, oracle.running, strict=True
        ):
            assert_close(mean, expected_mean, tolerance=1e-7)
            assert_close(var, expected_var, tolerance=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32(rng, variant):
    """Rounding errors grow to 8e-7 in losses and 2.1e-6 in parameters after fifty steps.

    If a gradient consists only of rounding errors, Adam divides one rounding error by another. A
    larger optimizer_eps keeps such parameters in place, both in the model and in the oracle.
    """
    x, labels = make_data(rng, 96, variant.get("loss"))
    x = x.astype(np.float32)
    model = fastbn.BatchNormMLP(SIZES, seed=3, **({"lr": 0.003, "optimizer_eps": 1e-3} | variant))
    oracle = Oracle(model)
    x_scaled = scaled(x, variant.get("input_normalization"))
    for step in range(STEPS):
        rows = slice(0, 48) if step % 2 else slice(48, 96)
        model.scaling = model.scaling.fit(x)  # of all data, before the first minibatch
        loss = model.train_step(x[rows], labels[rows])
        expected = oracle.step(x_scaled[rows], labels[rows])
        note_error(f"{STEPS} float32 steps, losses", abs(loss - expected) / max(1.0, expected))
        assert abs(loss - expected) <= 1e-6 * max(1.0, expected)
    for name, view in model.named_parameters():
        note_error(f"{STEPS} float32 steps, parameters", np.abs(view - oracle.params[name]).max())
        assert_close(view, oracle.params[name], tolerance=5e-6)


def test_hits_are_those_of_the_training_forward_pass(rng):
    x, labels = make_data(rng, 60)
    model = fastbn.BatchNormMLP(SIZES, dtype="float64")
    params = {name: view.copy() for name, view in model.named_parameters()}
    logits, _ = mlp.forward(params, x, slope=0.01)
    samples = training_samples(model, x, labels, None)
    _, correct = model._engine.run_steps(samples, np.arange(60), np.array([0, 60]), np.array([0.1]))
    assert correct[0] == (logits.argmax(axis=0) == labels).sum()


@pytest.mark.parametrize("variant", VARIANTS)
def test_inference_is_the_oracles(rng, variant):
    x, labels = make_data(rng, 40, variant.get("loss"))
    model = fastbn.BatchNormMLP(SIZES, dtype="float64", **({"lr": 0.01} | variant))
    for _ in range(3):
        model.train_step(x, labels)
    a = mlp.infer(
        dict(model.named_parameters()),
        model.snapshot(),
        scaled(x, variant.get("input_normalization")),
        slope=model.config.slope,
        elementwise=model.config.elementwise_activation,
    )
    logits = model.predict_logits(x)
    assert_close(logits, a.T, tolerance=1e-12)
    alone = [model.predict_logits(x[n : n + 1]) for n in range(len(x))]
    assert np.array_equal(np.concatenate(alone), logits)
    if model.config.loss == "squared_error":
        assert np.array_equal(model.predict(x), model.predict_logits(x))
        with pytest.raises(ValueError, match="predict_proba: expected a loss of classes"):
            model.predict_proba(x)
    elif model.config.loss == "sigmoid_cross_entropy":
        assert_close(model.predict_proba(x), ref.sigmoid(a.T), tolerance=1e-12)
        assert np.array_equal(model.predict(x), a.T > 0)
    else:
        assert_close(model.predict_proba(x), ref.softmax(a, "CN").T, tolerance=1e-12)
        assert np.array_equal(model.predict(x), a.argmax(axis=0))


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
def test_a_step_does_not_follow_numbers_out_of_the_data(rng, loss):
    """If another thread changes labels or row numbers, the loss is NaN or that of other rows."""
    x, y = make_data(rng, 20, loss)
    order, bounds, lrs = np.arange(20), np.array([0, 20]), np.array([0.1])
    model = fastbn.BatchNormMLP(SIZES, dtype="float64", loss=loss)
    samples = training_samples(model, x, y, np.ones(20))
    if loss == "softmax_cross_entropy":
        samples.arrays.labels[3] = 2**40
        losses, _ = model._engine.take_steps(samples, order, bounds, lrs)
        assert np.isnan(losses).all()
        samples.arrays.labels[3] = 0
    order[[0, 19]] = -(2**40), 2**40  # clipped to the first row and the last
    twin = fastbn.BatchNormMLP(SIZES, dtype="float64", loss=loss)
    losses, _ = model._engine.run_steps(samples, order, bounds, lrs)
    expected, _ = twin._engine.run_steps(samples, np.arange(20), bounds, lrs)
    assert losses[0] == expected[0]
    assert np.array_equal(model.params, twin.params)


def test_a_hit_is_a_sample_with_all_outputs_right(rng):
    x, targets = make_data(rng, 60, "sigmoid_cross_entropy")
    model = fastbn.BatchNormMLP(SIZES, dtype="float64", loss="sigmoid_cross_entropy")
    params = {name: view.copy() for name, view in model.named_parameters()}
    logits, _ = mlp.forward(params, x, slope=0.01)
    samples = training_samples(model, x, targets, None)
    _, correct = model._engine.run_steps(samples, np.arange(60), np.array([0, 60]), np.array([0.1]))
    assert correct[0] == (targets == (logits > 0).T).all(axis=1).sum() > 0


@pytest.mark.parametrize("weighted", [False, True])
def test_a_minibatch_without_weight_moves_nothing_but_the_statistics(rng, weighted):
    x, labels = make_data(rng, 20)
    model = fastbn.BatchNormMLP(SIZES, optimizer="sgd", lr=0.1, weighted=weighted)
    before = model.params.copy()
    weight = np.r_[np.zeros(10), np.ones(10)]
    samples = training_samples(model, x, labels, weight)
    losses, _ = model._engine.run_steps(samples, np.arange(20), np.array([0, 10]), np.array([0.1]))
    assert losses[0] == 0
    assert np.array_equal(model.params, before)
    assert model.running_mean.any() != weighted  # without weight, no sample counts


@pytest.mark.parametrize("scaling", [None, "zscore", "minmax"])
def test_a_weight_of_two_is_the_sample_twice(rng, scaling):
    x, labels = make_data(rng, 30)
    weight = rng.integers(0, 4, 30)
    options = {
        "dtype": "float64", "weighted": True, "unbiased": False, "input_normalization": scaling,
    }  # fmt: skip
    weighted, repeated = (fastbn.BatchNormMLP(SIZES, **options) for _ in range(2))
    for _ in range(5):
        first = weighted.train_step(x, labels, sample_weight=weight)
        second = repeated.train_step(x.repeat(weight, 0), labels.repeat(weight))
        assert first == pytest.approx(second, rel=1e-11)
    assert_close(weighted.predict_logits(x), repeated.predict_logits(x), tolerance=1e-11)


@pytest.mark.skipif(JIT_DISABLED, reason="sums as they are compiled")
def test_weighted_statistics_of_a_large_mean(rng):
    """As without weights, float32 data of mean 1e4 and deviation 1e-2 keep their digits."""
    from fastbn.kernels.batchnorm_formulas import Norm
    from fastbn.kernels.batchnorm_weighted import weighted_batch_norm_forward_cn

    x = (1e4 + 1e-2 * rng.standard_normal((3, 5000))).astype(np.float32)
    weight = rng.uniform(0, 1, 5000).astype(np.float32)
    weight /= weight.sum(dtype=np.float64)
    gamma, beta, mean, var, rstd = np.ones((5, 3), np.float32)
    y = np.empty_like(x)
    one = np.float32(1)
    norm = Norm(mean, rstd, gamma, beta)
    weighted_batch_norm_forward_cn(x, weight, norm, np.float32(1e-5), one, 0, 3, y, var)
    expected, expected_mean, _ = ref.batch_norm(x, gamma, beta, np.float32(1e-5), 1, "CN", weight)
    assert_close(y, expected, tolerance=2e-6)
    assert_close(mean, expected_mean, tolerance=1e-3)


@pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")
def test_a_cancelled_team_computes_nothing(rng, monkeypatch):
    def cancelled(function, size, arguments):
        counters = np.zeros(team.N_COUNTERS, np.int64)
        counters[team.DECIDERS], counters[team.DECISION] = 1, team.CANCELLED
        given = arguments(team.Member(counters, 0, 2, None))
        if isinstance(given[-1], np.ndarray):  # logits
            given[-1].fill(np.nan)
        function(*given)

    x, y = rng.standard_normal((8, 5)).astype(np.float32), np.arange(8) % 3
    model = fastbn.BatchNormMLP(SIZES)
    before = model.snapshot()
    samples = training_samples(model, x, y, None)
    monkeypatch.setattr(engine, "run_team", cancelled)
    losses, hits = model._engine.take_steps(samples, np.arange(8), np.array([0, 8]), np.ones(1))
    assert losses.size == hits.size == 0
    assert np.isnan(model.predict_logits(x)).all()
    after = model.snapshot()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_a_prediction_that_packs_the_weights_and_shares_units(rng, monkeypatch):
    """A member alone has a share of all units."""
    infer = engine.kernels.infer_logits

    def share_units(predictor, work, inputs, rows, shares_units, packs, member, logits):
        assert packs is has_view
        infer(predictor, work, inputs, rows, True, packs, member, logits)

    x = rng.standard_normal((7, 5)).astype(np.float32)
    model = fastbn.BatchNormMLP(SIZES, activation="tanh")
    expected = model.predict_logits(x)
    monkeypatch.setattr(engine.kernels, "infer_logits", share_units)
    for has_view in (False, True):
        view = model.params if has_view else None
        assert np.array_equal(model.predict_logits(x), expected)
    assert view is not None
