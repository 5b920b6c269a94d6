"""The peak memory of a fit, and the memory of this machine."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pathlib
from typing import Any

import numpy as np

from fastbn.checks import flag, integer
from fastbn.fit.plan import minibatch_bounds
from fastbn.model.workspaces import prediction_shares, prediction_sizes, training_sizes
from fastbn.parallel.cores import available_threads

# Bytes of a row number or a label, and of a number of center and scale.
INDEX, FLOAT64 = 8, 8

# At the end of a fit, predictions are compared with targets for this many samples at a time.
COMPARED_ROWS = 2**14

# Files with the memory limit of a container on Linux (control groups, both versions).
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> float:
    """Return the bytes of memory of this machine or container; infinity if that is unknown."""
    found = [math.inf]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # a system without it
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            found.append(int(pathlib.Path(limit).read_text()))
    return min(size for size in found if size > 0)


def fit_bytes(
    engine: Any, n_samples: int, batch_size: int, x_dtype: Any, sample_weight: bool,
    validation_samples: int, early_stopping: bool, threads: int | None,
) -> int:  # fmt: skip
    """Return the most memory of a model and its fit (`BatchNormMLP.fit_bytes`)."""
    config, layout = engine.config, engine.layout
    n = integer("n_samples", n_samples, 1)
    batch_size = integer("batch_size", batch_size, 1 + config.batch_norm)
    validated = integer("validation_samples", validation_samples, 0)
    weighted = flag("sample_weight", sample_weight)
    stops = flag("early_stopping", early_stopping)
    threads = available_threads() if threads is None else integer("threads", threads, 1)
    x_dtype = engine.dtype if x_dtype is None else np.dtype(x_dtype)
    is_copied = x_dtype not in (engine.dtype, np.uint8) or engine.scaling.in_dtype() is None
    rows = int(np.diff(minibatch_bounds(n, batch_size)).max())
    item, outputs = engine.dtype.itemsize, config.layer_sizes[-1]
    # throughout: the model, scratch memory, and converted data
    statistics = 2 * item * layout.units + 2 * FLOAT64 * layout.inputs
    model = 4 * item * layout.size + statistics
    work = item * sum(training_sizes(layout, rows, threads).values()) + INDEX * rows
    compared = min(n, COMPARED_ROWS) if config.predicts_numbers else 0
    if predicted := max(validated, compared):  # with scratch memory for each thread
        teams, _, part = prediction_shares(layout, predicted, threads)
        sizes = prediction_sizes(layout, part)
        work += teams * (item * sum(sizes.values()) + INDEX * part) + item * layout.packed_size
    copies = item * layout.inputs * (n + validated) * is_copied
    target = INDEX if config.predicts_one_class else item * outputs
    copies += target * (n + validated)
    copies += item * n * weighted
    # at the start of an epoch: its order and that of the one before; early stopping's snapshot
    snapshot, order = 3 * item * layout.size + statistics, INDEX * n
    begin = 2 * order + stops * snapshot
    # at its end: the logits of validation, and temporaries of its score
    wide = item + 3 * 8 if config.predicts_numbers else 4 * item
    score = 2 * item * outputs + INDEX + item if config.predicts_one_class else wide * outputs
    end = order + stops * snapshot + score * validated
    # after the fit: predictions of training samples beside their targets, and all weights
    last = (item + FLOAT64) * (outputs * compared + n * (compared > 0))
    # when the model is built: the weights of the largest layer, drawn in float64
    pairs = itertools.pairwise(config.layer_sizes)
    drawn = FLOAT64 * max(n_in * n_out for n_in, n_out in pairs)
    return model + max(drawn, work + copies + max(begin, end, last))
