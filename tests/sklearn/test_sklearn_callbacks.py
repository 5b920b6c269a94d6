"""scikit-learn's callback protocol, from version 1.9 on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from estimators import FAST, QUIET

from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

pytestmark = QUIET


class TestCallbacks:
    """scikit-learn's protocol, from version 1.9 on."""

    @pytest.fixture(autouse=True)
    def _protocol(self):
        pytest.importorskip("sklearn.callback", reason="this scikit-learn has no callbacks")

    def test_scores_of_every_epoch(self, iris):
        from sklearn.callback import ScoringMonitor

        X, y = iris
        monitor = ScoringMonitor(scoring="accuracy")
        model = BatchNormMLPClassifier(**FAST).set_callbacks(monitor).fit(X, y)
        rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
        assert len(rows) == model.n_iter_
        assert rows[-1]["accuracy"] == model.score(X, y)
        assert rows[0]["accuracy"] < rows[-1]["accuracy"]

    def test_progress_bar(self, iris, capsys):
        from sklearn.callback import ProgressBar

        model = BatchNormMLPRegressor(**FAST).set_callbacks(ProgressBar())
        model.fit(*iris)
        assert "BatchNormMLPRegressor" in capsys.readouterr().out

    def test_a_callback_may_stop_the_fit(self, iris):
        calls = []

        class Stop:
            def setup(self, estimator, context):
                calls.append("setup")

            def on_fit_task_begin(self, estimator, context):
                calls.append(f"begin {context.task_name}")

            def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
                calls.append(f"end {context.task_name}")
                fitted_estimator.predict(iris[0])
                return calls.count("end epoch") == 3

            def teardown(self, estimator, context):
                calls.append("teardown")

        model = BatchNormMLPClassifier(**FAST).set_callbacks(Stop()).fit(*iris)
        assert model.n_iter_ == 3
        epochs = ["begin epoch", "end epoch"] * 3
        assert calls == ["setup", "begin fit", *epochs, "end fit", "teardown"]


def test_an_earlier_version_without_callbacks():
    code = (
        "import sys, warnings, sklearn.neural_network\n"
        "sys.modules['sklearn.callback'] = None\n"
        "vars(sklearn).pop('callback', None)\n"
        "from fastbn.sklearn import BatchNormMLPClassifier, _callbacks\n"
        "warnings.simplefilter('ignore')\n"
        "assert _callbacks._callback is None\n"
        "model = BatchNormMLPClassifier(max_iter=2).fit([[0.0], [1.0], [2.0]], [0, 1, 1])\n"
        "print(model.n_iter_)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
