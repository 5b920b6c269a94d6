"""mypy finds mistakes in a user's script, and no errors in a correct script."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

import fastbn

pytest.importorskip("mypy")

ROOT = pathlib.Path(fastbn.__file__).parents[1]

RIGHT = """
import numpy as np

import fastbn
from fastbn import BatchNormMLP, EarlyStopping, batch_norm
from fastbn.datasets import load_digits

data = load_digits()
model = BatchNormMLP((64, 128, 10), activation="tanh", optimizer="adamw", dtype=np.float64)
history = model.fit(
    data.X_train, data.y_train, epochs=2, batch_size=128, schedule=lambda step: 0.01,
    early_stopping=EarlyStopping(patience=3), on_divergence="skip",
)
losses: list[float] = history.loss
x = np.ones((8, 3), np.float32)
y, mean, rstd = batch_norm(x, layout="NC", activation="relu")
fastbn.batch_norm_backward(y, x, None, None, mean, rstd, gradient="detached")
fastbn.sklearn.BatchNormMLPClassifier((32,), "relu", solver="sgd", learning_rate="invscaling")
fastbn.torch.accelerate
fastbn.plotting.plot_history(history)
fastbn.profiling.profile_training(model, batch_size=8)
fastbn.schedules.schedule_function("cosine", 0.1, 100)
"""

MISTAKES = """
import numpy as np

import fastbn
from fastbn import BatchNormMLP

x = np.ones((8, 3))
fastbn.batch_nrom(x)  # misspelt function
fastbn.batch_norm(x, layout="NHWC")  # wrong option
BatchNormMLP((3, 2), learning_rate=0.1)  # wrong name of an argument
"""

MORE_MISTAKES = """
import fastbn
from fastbn.sklearn import BatchNormMLPRegressor

fastbn.model.BatchNormMPL
fastbn.sgd_stepp
fastbn.batch_norm_backward([], [], None, None, [], [], gradient="exct")
fastbn.squared_error([[1.0]], [[2.0]], layout="N")
BatchNormMLPRegressor(solver="adma")
BatchNormMLPRegressor(input_normalization="z-score")
BatchNormMLPRegressor(epochs=3)
fastbn.BatchNormMLP((3, 2), activation="gelu")
fastbn.BatchNormMLP((3, 2), optimizer="Adam")
fastbn.BatchNormMLP((3, 2), loss="mse")
fastbn.BatchNormMLP((3, 2), dtype="float16")
fastbn.BatchNormMLP((3, 2)).fit([], [], epochs=1, batch_size=2, schedule="linear")
fastbn.BatchNormMLP((3, 2)).fit([], [], epochs=1, batch_size=2, on_divergence="ignore")
fastbn.BatchNormMLP((3, 2)).fit([], [], epochs=1, batch_size=2, progress="always")
fastbn.EarlyStopping(monitor="val_acc")
fastbn.History().stop_reason == "converged"
"""

# fastbn counts as installed here, so that mypy does not report errors in it
CONFIGURATION = """
[mypy]
strict = true
follow_imports = silent
ignore_missing_imports = true

[mypy-torch.*,jax.*,matplotlib.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Return a function that returns the lines of a script in which mypy finds an error."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "mypy.ini").write_text(CONFIGURATION)

    def check(script):
        (folder / "script.py").write_text(script)
        command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "script.py"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={"MYPYPATH": str(ROOT)}
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        found = re.findall(r"^script\.py:(\d+): error: (.*)$", done.stdout, flags=re.MULTILINE)
        assert len(found) == done.stdout.count(": error:"), done.stdout
        return {int(line): text for line, text in found}

    return check


def test_a_correct_script_has_no_errors(errors):
    assert errors(RIGHT) == {}


@pytest.mark.parametrize("script", [MISTAKES, MORE_MISTAKES])
def test_every_mistake_and_nothing_else(errors, script):
    lines = script.splitlines()
    first = max(n for n, line in enumerate(lines, 1) if line.startswith(("import", "from", "x =")))
    wrong = [n for n, line in enumerate(lines, 1) if n > first and line]
    assert list(errors(script)) == wrong


def test_the_messages_name_the_mistakes(errors):
    misspelt, option, argument = errors(MISTAKES).values()
    assert 'has no attribute "batch_nrom"' in misspelt
    assert "Literal['NC', 'CN']" in option
    assert 'Unexpected keyword argument "learning_rate"' in argument
