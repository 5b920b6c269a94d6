"""The order of the samples in an epoch."""

from __future__ import annotations

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence


def shuffled(n_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return ``np.random.default_rng([seed, epoch]).permutation(n_samples)``.

    The seed is below 2**32. An array of 32-bit words seeds the generator faster than a list does.
    """
    entropy = np.array([seed, epoch], np.uint32) if epoch < 2**32 else [seed, epoch]
    return Generator(PCG64(SeedSequence(entropy))).permutation(n_samples)
