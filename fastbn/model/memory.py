"""How much memory a fit takes at its peak, and how much there is."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pathlib

import numpy as np

from fastbn.model.config import ModelConfig
from fastbn.model.layout import Layout
from fastbn.model.workspaces import INFERENCE_ROWS, workspace_sizes

# Of a row number in the order of an epoch, and of a label.
INDEX = 8

# Of a number that inputs are scaled by.
FLOAT64 = 8

# Samples whose predictions are compared with their targets at once, at the end of a fit.
COMPARED_ROWS = 2**14

# Where Linux says what the memory of a container is limited to (control groups, both versions).
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> float:
    """Return the bytes of memory of this machine or container; infinity where nothing says so."""
    found = [math.inf]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # a system without it
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            found.append(int(pathlib.Path(limit).read_text()))
    return min(size for size in found if size > 0)


def peak_bytes(
    layout: Layout, config: ModelConfig, *, n_samples: int, rows: int, copied: bool,
    weighted: bool, validated: int, stops: bool, threads: int,
) -> int:  # fmt: skip
    """Return the bytes of a model and its fit, without those of the caller's arrays.

    `rows` is the largest minibatch, `copied` says whether X is converted, `validated` is the number
    of samples of validation, and `stops` says whether early stopping keeps the best parameters.
    """
    item, outputs = np.dtype(config.dtype).itemsize, config.layer_sizes[-1]
    # what is there all along: the model, the scratch memory, and what had to be converted
    statistics = 2 * item * layout.units + 2 * FLOAT64 * layout.inputs
    model = 4 * item * layout.size + statistics
    work = item * sum(workspace_sizes(layout, rows, threads, True).values()) + INDEX * rows
    compared = min(n_samples, COMPARED_ROWS) if config.loss == "squared_error" else 0
    if predicted := max(validated, compared):  # with scratch memory of its own, for each thread
        part = min(predicted, INFERENCE_ROWS)
        one = item * sum(workspace_sizes(layout, part, 1, False).values()) + INDEX * part
        work += min(threads, max(1, predicted // INFERENCE_ROWS)) * one
    copies = item * layout.inputs * (n_samples + validated) * copied
    target = INDEX if config.predicts_one_class else item * outputs
    copies += target * (n_samples + validated)
    copies += item * n_samples * weighted
    # as an epoch begins: its order and that of the one before; early stopping's snapshot
    snapshot, order = 3 * item * layout.size + statistics, INDEX * n_samples
    begin = 2 * order + stops * snapshot
    # at its end: weights in its order, the logits of validation and what its score is made of
    wide = 4 * item if config.loss == "sigmoid_cross_entropy" else item + 3 * 8
    score = 2 * item * outputs + INDEX + item if config.predicts_one_class else wide * outputs
    end = order + item * n_samples * weighted + stops * snapshot + score * validated
    # after it: predictions of training samples beside their targets, and weights of all
    last = (item + FLOAT64) * (outputs * compared + n_samples * (compared > 0))
    # before it: the weights of the largest layer as they are drawn, when the model is built
    pairs = itertools.pairwise(config.layer_sizes)
    drawn = FLOAT64 * max(n_in * n_out for n_in, n_out in pairs)
    return model + max(drawn, work + copies + max(begin, end, last))
