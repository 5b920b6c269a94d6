"""Pickles of version 0.1 load, though its classes have moved since."""

from __future__ import annotations

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "pickles-0.1.npz") as arrays:
        return dict(arrays)


def test_a_model_its_history_and_its_rule(expected):
    found = pickle.loads((DATA / "model-0.1.pickle").read_bytes())
    np.testing.assert_allclose(
        found["model"].predict_logits(expected["X"]), expected["logits"], rtol=1e-5, atol=1e-6
    )
    assert found["model"].steps == 8
    assert len(found["history"].loss) == 2
    assert found["early_stopping"].patience == 3
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again["model"].params, found["model"].params)


def test_an_estimator(expected):
    pytest.importorskip("sklearn")
    found = pickle.loads((DATA / "classifier-0.1.pickle").read_bytes())
    np.testing.assert_allclose(
        found.predict_proba(expected["X"]), expected["probabilities"], rtol=1e-5, atol=1e-6
    )


OLD = """
import fastbn.training, fastbn.config, fastbn.schedules
from fastbn._history import EarlyStopping, History
from fastbn._inputs import InputScaling
from fastbn._targets import TargetScaling
from fastbn._buffers import Layout
import fastbn.fit.history, fastbn.model.config
print(History is fastbn.fit.history.History is fastbn.training.History is fastbn.History)
print(fastbn.config.ModelConfig is fastbn.model.config.ModelConfig)
"""


def test_places_of_version_0_1_in_a_process_that_has_imported_nothing():
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
