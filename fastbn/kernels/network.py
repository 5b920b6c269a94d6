"""A whole network, compiled: many training steps, or the logits of many samples, in one call.

This module exports the two calls and what callers need for their arguments. Each phase of a call
has its own file.
"""

from fastbn.kernels.infer import infer_logits, pack_weights
from fastbn.kernels.minibatch_loss import PART_ROWS
from fastbn.kernels.network_arrays import (
    N_IN,
    N_OUT,
    UNIT,
    Network,
    PredictionWorkspace,
    Predictor,
    Recipe,
    Samples,
    Workspace,
)
from fastbn.kernels.train_step import train_steps

__all__ = [
    "N_IN", "N_OUT", "PART_ROWS", "UNIT", "Network", "PredictionWorkspace", "Predictor",
    "Recipe", "Samples", "Workspace", "infer_logits", "pack_weights", "train_steps",
]  # fmt: skip
