"""Fits that are killed and resume from their checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

import fastbn


class Killed(Exception):
    pass


def kill_in(epoch):
    """Return a callback that ends the fit in that epoch."""

    def callback(model, history):
        if history.epochs == epoch:
            raise Killed

    return callback


def assert_resumes(start, x, y, resumed, others, path, monitor):
    """Assert that a fit killed in its second epoch resumes bit for bit, and only with its data.

    `start(is_new)` returns the model, which may have been trained before, or a new one. `resumed`
    is the same data in another form.
    """
    options = {
        "epochs": 4, "batch_size": 50, "progress": False, "validation_data": (x[:99], y[:99]),
        "early_stopping": fastbn.EarlyStopping(9, monitor),
    }  # fmt: skip
    whole, fresh = start(False), start(True)
    expected = whole.fit(x, y, **options)
    options |= {"checkpoint": path, "resume": True}
    with pytest.raises(Killed):
        start(False).fit(x, y, callbacks=[kill_in(2)], **options)
    history = fresh.fit(*resumed, **options)
    for name, tensor in whole._engine.state().items():
        assert np.array_equal(tensor, fresh._engine.state()[name]), name
    for name in ("loss", "val_loss", "val_accuracy", "val_r2"):
        assert getattr(history, name) == getattr(expected, name)
    with pytest.raises(ValueError, match="resume: expected data as in"):
        start(True).fit(*others, **options)
