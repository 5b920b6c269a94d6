"""Version 0.1 had the oracle of a whole network in this module."""

from fastbn.reference.mlp import *  # noqa: F403
