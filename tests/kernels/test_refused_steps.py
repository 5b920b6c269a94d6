"""If one entry of a gradient is too large, every team refuses the step, and the layer is named."""

from __future__ import annotations

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.kernels.input_products import block_is_below
from fastbn.model.inputs import training_samples
from fastbn.parallel import team_size

# Few features; enough for each member to keep its own; data split by rows, or by panels.
SIZES = [(7, 12, 3), (4, 130, 3), (200, 20, 3), (256, 20, 3)]
N = 10


def refused(model, x, y):
    """Take a step that is refused; return the layer that the error names."""
    before = model.snapshot()
    with pytest.raises(fastbn.DivergenceError) as caught:
        model.train_step(x, y)
    after = model.snapshot()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    return caught.value.layer


@pytest.mark.parametrize("threads", [1] if JIT_DISABLED else [1, 2, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_one_entry_of_a_gradient(monkeypatch, sizes, threads):
    """Only one feature has weights other than 0, so others have no gradient there."""
    monkeypatch.setattr(team_size.TrainingTeam, "size", lambda self, steps: (threads, None))
    y, model = np.arange(N) % 3, fastbn.BatchNormMLP(sizes, batch_norm=False, activation="tanh")
    first, bias, second, _ = (view for _, view in model.named_parameters())
    for feature in {0, sizes[1] // 2, sizes[1] - 1}:
        first[...], second[...], bias[...] = 0, 0, 0
        second[0, feature] = 1
        for column in {0, sizes[0] // 2, sizes[0] - 1}:
            x = np.zeros((N, sizes[0]), np.float32)
            x[0, column] = 1e17
            assert np.isfinite(model._engine.take_steps(
                training_samples(model, x, y, None), np.arange(N), np.array([0, N]), np.zeros(1)
            )[0])  # fmt: skip
            assert abs(model.grads).max() > 1e14
            assert np.count_nonzero(abs(model.grads) > 1e14) == 1
            x[0, column] = 3e37
            assert refused(model, x, y) == "layers.0"
        x[...] = 0
        second[0, feature] = 1e22  # the gradient of the bias
        assert refused(model, x, y) == "layers.0"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0, -2.0])
def test_only_the_block_is_checked(bad):
    array, limit = np.ones((5, 40), np.float32), np.float32(2)
    assert block_is_below(array, 0, 5, 0, 40, limit)
    array[2, 30] = bad
    assert not block_is_below(array, 0, 5, 0, 40, limit)
    assert not block_is_below(array, 2, 3, 30, 31, limit)
    assert block_is_below(array, 0, 2, 0, 40, limit)
    assert block_is_below(array, 0, 5, 0, 30, limit)
    assert block_is_below(array, 3, 5, 0, 40, limit)
    assert block_is_below(array, 0, 5, 31, 40, limit)


def test_gaps_between_tensors_do_not_count():
    """No gradient is computed there."""
    x, y = np.random.default_rng(0).standard_normal((N, 7)), np.arange(N) % 3
    model, twin = (fastbn.BatchNormMLP((7, 5, 3)) for _ in range(2))
    model.grads[...] = np.nan
    assert model.train_step(x, y) == twin.train_step(x, y)
    assert np.array_equal(model.params, twin.params)
    assert np.isnan(model.grads).any()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_whose_activation_overflows_is_named(layer):
    """Its z and its variance are finite, and so are all layers before it."""
    x, y = np.random.default_rng(0).standard_normal((N, 7)), np.arange(N) % 3
    model = fastbn.BatchNormMLP((7, 40, 5, 3), dropout=0.1)
    dict(model.named_parameters())[f"layers.{layer}.gamma"][-1] = 3e38
    assert refused(model, x, y) == f"layers.{layer}"
    assert not model.grads.any()  # there was no backward pass
