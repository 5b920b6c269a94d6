"""The order of the samples in an epoch is the one that NumPy's generator draws."""

from __future__ import annotations

import numpy as np
import pytest

from fastbn.fit.order import shuffled


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 127, 2**32 - 1, 2**32, 2**40])
def test_the_order_is_that_of_numpy(seed, epoch):
    for n_samples in (1, 2, 64, 1000):
        expected = np.random.default_rng([seed, epoch]).permutation(n_samples)
        assert np.array_equal(shuffled(n_samples, seed, epoch), expected)
