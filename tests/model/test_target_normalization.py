"""Normalized targets, and fits that end worse than the mean of their targets."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
from resumed import assert_resumes

import fastbn
from fastbn.files.model_file import open_model
from fastbn.model.inputs import training_samples

SQUARED = "squared_error"


def make_data(rng, n=400, outputs=1):
    """Return data with targets near 200,000 whose deviations are 1, 1000, ..."""
    x = rng.standard_normal((n, 4))
    y = np.c_[x[:, 0] - x[:, 1], x[:, 2] * x[:, 3] + x[:, 0]][:, :outputs]
    return x, 200_000 + y * 1000.0 ** np.arange(outputs)


def make(outputs=1, normalization="zscore", **options):
    arguments = {"lr": 0.02, "seed": 1, "target_normalization": normalization} | options
    return fastbn.BatchNormMLP((4, 32, outputs), loss=SQUARED, **arguments)


def fit(model, x, y, **options):
    return model.fit(x, y, **{"epochs": 40, "batch_size": 40, "progress": False} | options)


def normalized(y, weight=None):
    mean = np.average(y, axis=0, weights=weight)
    return (y - mean) / np.sqrt(np.average((y - mean) ** 2, axis=0, weights=weight))


@pytest.mark.parametrize("outputs", [1, 2])
def test_large_targets_are_learned(rng, tmp_path, outputs):
    x, y = make_data(rng, outputs=outputs)
    model = make(outputs)
    history = fit(model, x, y, validation_data=(x, y))
    loss, r2 = model.evaluate(x, y)
    said = model.predict(x)
    assert said.dtype == np.float64
    assert r2 > 0.9
    errors = (said - y) ** 2
    assert (1 - errors.mean(axis=0) / y.var(axis=0)).mean() == pytest.approx(r2, abs=1e-3)
    assert loss == pytest.approx((errors.mean(axis=0) / y.var(axis=0)).sum() / 2, rel=1e-2)
    assert (history.val_loss[-1], history.val_r2[-1]) == (loss, r2)
    assert history.loss[-1] < 0.2
    logits = model.predict_logits(x)
    expected = logits * y.std(axis=0) + y.mean(axis=0)
    np.testing.assert_allclose(said, expected, rtol=1e-7)
    model.save(tmp_path / "model")
    for other in (
        fastbn.BatchNormMLP.load(tmp_path / "model"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        assert other.config == model.config
        assert np.array_equal(other.predict(x), said)
        assert other.evaluate(x, y) == (loss, r2)
    with open_model(tmp_path / "model") as file:
        assert file.tensors["target.center"][:2] == (np.float64, (outputs,))
        np.testing.assert_allclose(file.read("target.center"), y.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(file.read("target.scale"), 1 / y.std(axis=0), rtol=1e-9)


def test_it_trains_as_on_normalized_targets(rng):
    x, y = make_data(rng, outputs=2)
    model, plain = make(2), make(2, None)
    for one, targets in ((model, y), (plain, normalized(y))):
        losses = [one.train_step(x, targets)]
        one.partial_fit(x, targets, batch_size=50)
        losses += fit(one, x, targets, epochs=3, validation_data=(x, targets)).val_loss
        one.losses = losses
    np.testing.assert_allclose(model.losses, plain.losses, rtol=1e-4)
    np.testing.assert_allclose(model.params, plain.params, atol=1e-3)


def test_targets_are_normalized_in_float64(rng):
    x, _ = make_data(rng)
    y = 2_459_000.5 + rng.uniform(0, 0.1, 400)
    targets = training_samples(make(), x, y, None).arrays.targets
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets[:, 0], normalized(y), atol=1e-6)
    wide = training_samples(make(dtype="float64"), x, y.astype(np.longdouble), None).arrays.targets
    np.testing.assert_allclose(wide[:, 0], normalized(y), atol=1e-7)
    whole = training_samples(make(), x, np.arange(400), None).arrays.targets
    np.testing.assert_allclose(whole[:, 0], normalized(np.arange(400)), rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_weights_count_where_they_count_in_statistics(rng, weighted):
    x, y = make_data(rng)
    weight = rng.integers(0, 3, 400).astype(float)
    targets = training_samples(make(weighted=weighted), x, y, weight).arrays.targets
    seen = weight > 0
    expected = normalized(y[seen], weight[seen] if weighted else None)
    np.testing.assert_allclose(targets[seen], expected, atol=1e-6)


def test_targets_that_are_constant_up_to_rounding(rng):
    x, y = make_data(rng)
    y = np.where(y > 200_000, 0.3, 0.1 * 3)
    for dtype in ("float32", "float64"):
        samples = training_samples(make(dtype=dtype), x, y, None)
        assert samples.outputs.scale.tolist() == [1.0]
        assert np.abs(samples.arrays.targets).max() < 1e-15


def test_it_is_fitted_on_the_first_targets(rng):
    x, y = make_data(rng)
    model = make()
    with pytest.raises(ValueError, match="target_normalization='zscore' is not fitted"):
        model.predict(x)
    with pytest.raises(ValueError, match="target_normalization='zscore' is not fitted"):
        model.evaluate(x, y)
    model.partial_fit(x[:100], y[:100])
    center = model.target_scaling.center.copy()
    np.testing.assert_allclose(center, y[:100].mean(axis=0), rtol=1e-14)
    model.partial_fit(x, y + 50)
    assert np.array_equal(model.target_scaling.center, center)
    snapshot, said = model.snapshot(), model.predict(x)
    other = make()
    other.partial_fit(x, y * 7)
    other.restore(snapshot)
    assert np.array_equal(other.predict(x), said)
    other.restore(make().snapshot())
    with pytest.raises(ValueError, match="is not fitted"):
        other.predict(x)


def test_an_unfitted_normalization_stays_unfitted(rng, tmp_path):
    make().save(tmp_path / "model")
    loaded = fastbn.BatchNormMLP.load(tmp_path / "model")
    assert not loaded.target_scaling.is_fitted
    x, y = make_data(rng)
    fit(loaded, x, y)
    assert loaded.evaluate(x, y)[1] > 0.9


@pytest.mark.parametrize("value", [7.0, 200_000.1, 1e-310, 1e30])
def test_constant_targets(rng, value):
    x, _ = make_data(rng)
    model = make()
    samples = training_samples(model, x, np.full(400, value), None)
    assert (samples.arrays.targets == 0).all()
    assert samples.outputs.scale.tolist() == [1.0]
    fit(model, x, np.full(400, value), epochs=100)
    np.testing.assert_allclose(model.predict(x), np.float32(value), atol=0.5)


@pytest.mark.parametrize("normalization", [None, "zscore"])
def test_early_stopping_goes_by_r2(rng, normalization):
    x, y = make_data(rng)
    y = y if normalization else normalized(y)
    model = make(normalization=normalization, lr=0.05)
    history = fit(
        model, x[:200], y[:200], epochs=500, validation_data=(x[200:], y[200:]),
        early_stopping=fastbn.EarlyStopping(patience=5, monitor="val_r2"),
    )  # fmt: skip
    assert history.stop_reason == "early_stopping"
    assert model.evaluate(x[200:], y[200:])[1] == max(history.val_r2) > 0.9


@pytest.mark.parametrize("warm", [False, True])
def test_a_fit_goes_on_with_the_same_bits(rng, tmp_path, warm):
    x, y = make_data(rng, outputs=2)

    def start(is_new):
        model = make(2)
        if warm and not is_new:
            model.partial_fit(x, y + 0.1)
        return model

    resumed = x, y.astype(">f8")
    assert_resumes(start, x, y, resumed, (x, y + 1e-6), tmp_path / "c", "val_r2")


def test_mistakes(rng):
    x, y = make_data(rng)
    for loss in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        with pytest.raises(
            ValueError, match=f"target_normalization: expected None with loss='{loss}', got 'zsc"
        ):
            fastbn.BatchNormMLP((4, 2), loss=loss, target_normalization="zscore")
    with pytest.raises(ValueError, match="target_normalization: expected one of"):
        make(normalization="minmax")
    model = make()
    fit(model, x, y, epochs=1)
    before = pickle.dumps(model)
    odd = y.copy()
    for bad, message in (
        (np.nan, "y: expected finite numbers of float64, got others in row 3"),
        (1e300, "y: expected numbers that fit float32 after scaling .*, got .* in row 3"),
    ):
        odd[3] = bad
        with pytest.raises(ValueError, match=message):
            model.train_step(x, odd)
        with pytest.raises(ValueError, match=message):
            model.evaluate(x, odd)
        with pytest.raises(ValueError, match=message.replace("y:", r"validation_data\[1\]:")):
            fit(make(), x, y, validation_data=(x, odd))
    with pytest.raises(ValueError, match=r"y: expected shape \(400, 1\) or \(400,\), got"):
        model.train_step(x, y[:5])
    with pytest.raises(TypeError, match="y: expected numbers, got dtype"):
        model.train_step(x, y.astype(str))
    assert pickle.dumps(model) == before
    with pytest.raises(ValueError, match="y: expected targets with a deviation that fits float64"):
        make().train_step(x, np.copysign(1.7e308, x[:, 0]))
    large = make()
    large.train_step(x, y * 1e100)
    assert np.abs(large.predict(x) / 1e100 / 200_000 - 1).max() < 1e-3


def test_a_file_with_a_scale_of_zero_is_refused(rng, tmp_path):
    x, y = make_data(rng)
    model = make()
    model.train_step(x, y)
    model.target_scaling.scale[:] = 0
    with pytest.raises(ValueError, match="target.scale: expected numbers above 0, got 0"):
        model.save(tmp_path / "model")


def test_torch_predicts_the_same_and_trains_on(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from fastbn.torch import from_torch, to_torch

    x, y = make_data(rng, outputs=2)
    for dtype, scaling, offset in (("float64", None, 0), ("float32", "zscore", 2_459_000.5)):
        far = (x + offset).astype(dtype if offset == 0 else np.float64)
        model = make(2, dtype=dtype, input_normalization=scaling)
        with pytest.raises(ValueError, match="model: expected a model with fitted scaling"):
            to_torch(model)
        fit(model, far, y, epochs=5)
        module, optimizer = to_torch(model)
        said = module(torch.from_numpy(far))
        assert said.dtype == getattr(torch, dtype)
        np.testing.assert_allclose(said.detach().numpy(), model.predict(far), rtol=1e-6)
        back = from_torch(module, optimizer)
        assert back.config.target_normalization == "zscore"
        assert back.config.loss == SQUARED
        np.testing.assert_allclose(back.predict(far), model.predict(far), rtol=1e-7)
        assert back.train_step(far, y) == pytest.approx(model.train_step(far, y), rel=1e-5)
        with pytest.raises(TypeError, match=r"module\[\d\]: expected Linear"):
            from_torch(torch.nn.Sequential(*module, torch.nn.ReLU()))
    assert module.double()(torch.from_numpy(far)).dtype == torch.float64


# -- fits that end worse than the mean of their targets --------------------------------------------


def worse(*remedies):
    text = "".join(f"{name}='zscore', " for name in remedies)
    return f"worse than the mean of its targets: .*; {text}more epochs or another lr may help"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_fit_that_ends_worse_than_the_mean_says_so_once(rng, outputs, weighted):
    x, y = make_data(rng, outputs=outputs)
    weight = rng.uniform(0.5, 2, 400) if weighted else None
    model = make(outputs, None)
    with pytest.warns(
        UserWarning, match=worse("target_normalization", "input_normalization")
    ) as caught:
        fit(model, x, y, epochs=3, sample_weight=weight)
    assert caught[0].filename == __file__
    loss = ((model.predict(x) - y) ** 2).sum(axis=1)
    of_mean = ((y - np.average(y, axis=0, weights=weight)) ** 2).sum(axis=1)
    for values in (loss, of_mean):
        assert f"{np.average(values, weights=weight) / 2:.3g}" in str(caught[0].message)
    fit(model, x, y, epochs=1)
    with pytest.warns(UserWarning, match=worse("target_normalization") + "$"):
        fit(make(outputs, None, input_normalization="zscore"), x, y, epochs=1)


def test_what_gives_no_warning(rng):
    x, y = make_data(rng)
    z = normalized(y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(1, None)
        fit(model, x, z)
        for _ in range(3):
            fit(model, x, z, epochs=1)
        fit(make(), x, y)
        # the loss of its first epoch is above that of the mean, but the trained model is not
        first = make(1, None, lr=0.05)
        history = fit(first, x, z * 0.15, epochs=1, batch_size=4)
        assert history.loss[-1] > (z * 0.15).var() / 2
        assert first.evaluate(x, z * 0.15)[0] < (z * 0.15).var() / 2
        make(1, None).partial_fit(x, y)
        make(1, None).train_step(x, y)
        fit(make(), x, np.full(400, 200_000.1), epochs=1)
        noise = rng.standard_normal(400)
        fit(make(1, None, lr=1e-3, dropout=0.5), x, noise, epochs=20)
        for constant in (0.0, 9.0, 1e-30):
            fit(make(1, None), x, np.full(400, constant))
            fit(make(), x, np.full(400, constant), epochs=1)
        diverged = fit(
            make(1, None, optimizer="sgd", batch_norm=False, lr=1e30), x, z, on_divergence="stop"
        )
        assert diverged.stop_reason == "diverged"
        fastbn.BatchNormMLP((4, 8, 2)).fit(
            x, (z[:, 0] > 0).astype(int), epochs=1, batch_size=40, progress=False
        )


def test_running_statistics_that_fit_nothing_are_noticed(rng):
    """The training loss does not show that they are wrong."""
    x, y = make_data(rng)
    z = normalized(y)
    model = make(1, None, lr=0.05)
    with pytest.warns(UserWarning, match=worse("target_normalization", "input_normalization")):
        history = fit(model, x + 100, z, epochs=1)
    assert history.loss[-1] < 0.5 < model.evaluate(x + 100, z)[0]
    assert model.evaluate(x + 100, z)[1] < 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_targets_that_are_not_met(rng, dtype):
    x, _ = make_data(rng)
    y = np.full(400, 200_000.1)
    with pytest.warns(UserWarning, match=worse("target_normalization", "input_normalization")):
        fit(make(1, None, dtype=dtype), x, y, epochs=3)
    y[::2] = np.nextafter(y[0], 0)
    with pytest.warns(UserWarning, match=worse("target_normalization", "input_normalization")):
        fit(make(1, None, dtype=dtype), x, y, epochs=3)


def test_predictions_of_dates_are_float64(rng):
    """float32 resolves a quarter of a day."""
    x, _ = make_data(rng)
    y = 2_459_000.5 + 0.01 * x[:, 0]
    model = make()
    fit(model, x, y)
    said = model.predict(x.astype(np.float32))[:, 0]
    assert said.dtype == np.float64
    r2 = 1 - ((said - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert r2 == pytest.approx(model.evaluate(x, y)[1], abs=1e-3)
    assert r2 > 0.9


# -- the regressor for scikit-learn ----------------------------------------------------------------


def regressor(**options):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from fastbn.sklearn import BatchNormMLPRegressor

    arguments = {"learning_rate_init": 0.02, "max_iter": 40, "random_state": 0} | options
    return BatchNormMLPRegressor(**arguments)


def fit_quietly(estimator, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit has not converged
        return estimator.fit(x, y)


def test_the_regressors_model_knows_its_targets(rng, tmp_path):
    x, y = make_data(rng, outputs=2)
    estimator = fit_quietly(regressor(), x, y)
    assert estimator.score(x, y) > 0.9
    np.testing.assert_allclose(estimator.target_mean_, y.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(estimator.target_scale_, y.std(axis=0), rtol=1e-9)
    estimator.model_.save(tmp_path / "model")
    loaded = fastbn.BatchNormMLP.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(x), estimator.predict(x), rtol=1e-6)
    assert estimator.loss_ == estimator.loss_curve_[-1] < 0.5


def test_a_regressor_learns_dates(rng):
    x, _ = make_data(rng)
    y = 2_459_000.5 + 0.01 * x[:, 0]
    estimator = fit_quietly(regressor(early_stopping=True), x, y)
    assert estimator.score(x, y) > 0.8
    assert max(estimator.validation_scores_) > 0.8


def test_a_regressor_that_gives_partial_fits_says_nothing(rng):
    x, y = make_data(rng)
    regressor(learning_rate_init=1e-6).partial_fit(x, y[:, 0])


def test_a_regressor_that_ends_worse_than_the_mean_says_so(rng):
    from sklearn.exceptions import ConvergenceWarning

    x, y = make_data(rng)
    y = y[:, 0]
    estimator = regressor(max_iter=3, learning_rate_init=1e-6, warm_start=True)
    for _ in range(2):  # each fit
        with pytest.warns(UserWarning, match="worse than the mean|converged") as caught:
            estimator.fit(x, y)
        assert estimator.score(x, y) < 0
        words = {one.category: str(one.message) for one in caught}
        assert set(words) == {UserWarning, ConvergenceWarning}
        assert "worse than the mean" in words[UserWarning]
        assert "a larger max_iter or another learning_rate_init may help" in words[UserWarning]
    estimator.partial_fit(x, y)
    with pytest.warns(ConvergenceWarning) as caught:
        assert regressor(early_stopping=True, max_iter=30).fit(x, y).score(x, y) > 0.5
    assert {one.category for one in caught} == {ConvergenceWarning}


def test_coefs_reproduce_predictions_of_dates(rng):
    x, _ = make_data(rng)
    x[:, 1] += 2_459_000.5
    y = 2_459_000.5 + 0.01 * x[:, 0]
    for dtype in (np.float64, np.float32):
        model = fit_quietly(regressor(), x.astype(dtype), y)
        (first, last), (bias, last_bias) = model.coefs_, model.intercepts_
        assert {part.dtype for part in (first, last, bias, last_bias)} == {np.dtype(np.float64)}
    model = fit_quietly(regressor(), x, y)
    (first, last), (bias, last_bias) = model.coefs_, model.intercepts_
    said = np.maximum(x @ first + bias, 0) @ last + last_bias
    np.testing.assert_allclose(said[:, 0], model.predict(x), rtol=0, atol=1e-6)


def test_pickles_of_regressors_that_normalized_targets_themselves(rng):
    x, y = make_data(rng, outputs=2)
    estimator = fit_quietly(regressor(warm_start=True), x, y)
    said, coefs = estimator.predict(x), estimator.coefs_[-1]
    older = copy.deepcopy(estimator)
    state = older.__getstate__()
    state |= {"target_mean_": older.target_mean_, "target_scale_": older.target_scale_}
    plain = older.model_.__getstate__()
    plain["config"] = copy.copy(plain["config"])
    del vars(plain["config"])["target_normalization"], plain["target_scaling"]
    state["model_"] = object.__new__(fastbn.BatchNormMLP)
    state["model_"].__setstate__(plain)
    assert state["model_"].config.target_normalization is None
    loaded = object.__new__(type(estimator))
    loaded.__setstate__(state)
    for one in (loaded, pickle.loads(pickle.dumps(loaded))):
        np.testing.assert_allclose(one.predict(x), said, rtol=1e-14)
        np.testing.assert_allclose(one.target_scale_, estimator.target_scale_, rtol=1e-14)
        np.testing.assert_allclose(one.coefs_[-1], coefs, rtol=1e-6)
    fit_quietly(loaded, x, y)
    assert loaded.score(x, y) > 0.9
