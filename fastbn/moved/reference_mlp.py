"""Where version 0.1 had the oracle of a whole network."""

from fastbn.reference.mlp import *  # noqa: F403
