"""A whole network, compiled: many training steps, or the logits of many samples, in one call.

This module exports the two calls and their arguments; each phase of a call has its own file.
"""

from fastbn.kernels.infer import infer_logits as infer_logits
from fastbn.kernels.minibatch_loss import PART_ROWS as PART_ROWS
from fastbn.kernels.network_arrays import *  # noqa: F403
from fastbn.kernels.train_step import train_steps as train_steps
