"""examples/experiments: figures, verdicts on claims, and the script."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import figures
import numpy as np
import output
import pytest
import runner
import shift
import tables
from cases import JIT_DISABLED
from figures import spread, verdict
from runner import Run, Table, fastest, make_setting, run_table

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "examples" / "experiments"

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="takes the compiler")


def a_run(training, test=None):
    test = training if test is None else test
    return Run(tuple(training), tuple(test), training[-1], 1.0)


def silent(line):
    """Print nothing during training."""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("experiments", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_epochs_to_a_target():
    run = a_run([0.5, 0.8, 0.7, 0.9])
    assert run.epochs_to(0.8) == 2
    assert run.epochs_to(0.95) == math.inf


def test_medians_and_ranges():
    assert spread([3, 3, 3]) == "3"
    assert spread([5, 3, 4]) == "4 (3 to 5)"
    assert spread([3, math.inf, 4]) == "4 (3 to never)"
    assert figures.percent([0.981, 0.975, 0.99]) == "98.1 (97.5 to 99.0)"


def test_a_claim_holds_for_all_seeds_or_it_does_not():
    assert verdict("a", [1, 2, 3], [4, 5, 6]) == "a: yes"
    assert verdict("a", [4, 5, 6], [1, 2, 3]) == "a: no, the opposite"
    for overlapping in ([3, 5, 6], [math.inf] * 3):
        assert verdict("a", overlapping, [1, 3, math.inf]).startswith("a: undecided")


def test_the_fastest_of_several_rates():
    slow, fast, never = [0.1, 0.2, 0.9], [0.1, 0.9, 0.91], [0.1, 0.2, 0.3]
    runs = {rate: [a_run(values)] * 3 for rate, values in ((1, slow), (2, fast), (3, never))}
    assert fastest(runs, 0.85) == 2
    assert fastest({1: [a_run(never)] * 3, 3: [a_run(slow)] * 3}, 0.99) == 3


def test_a_rate_at_the_edge_is_reported():
    assert runner.rate_text(0.01, (0.001, 0.01, 0.1)) == "0.01"
    assert runner.rate_text(0.001, (0.001, 0.01, 0.1)) == "0.001, the smallest tried"
    assert runner.rate_text(0.1, (0.001, 0.01, 0.1)) == "0.1, the largest tried"


def test_a_divergence_leaves_a_gap():
    x, y = runner.curve([a_run([0.5]), a_run([0.4, 0.6])], "training", 3)
    assert x.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(y, [[0.5, np.nan, np.nan], [0.4, 0.6, np.nan]])


@pytest.fixture
def setting():
    return dataclasses.replace(make_setting(True, 0), epochs=4, hidden=(16,))


NAMES = ["convergence", "gradient", "normalization", "batch-size", "optimizers", "shift", "output"]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_shows_a_table_and_curves(name, setting, script, tmp_path, monkeypatch):
    def small(table, *arguments):
        """Run the table with two rates, or one for each variant, and few epochs."""
        if isinstance(table.rates, dict):
            rates = {name: some[:1] for name, some in table.rates.items()}
        else:
            rates = table.rates[-2:] and (table.rates[0], table.rates[-1])
        shape = {**table.shape, "epochs": 12} if "epochs" in table.shape else table.shape
        return run_table(dataclasses.replace(table, rates=rates, shape=shape), *arguments)

    monkeypatch.setattr(script, "run_table", small)
    assert [*script.TABLES, *script.OTHERS] == NAMES
    result = script.run(name, setting, silent)
    assert result.name == name
    assert len(result.rows) >= 4
    assert all(len(row) == len(result.columns) for row in result.rows)
    assert result.findings
    assert all(": " in finding for finding in result.findings)
    assert "seeds 0 to 2" in result.setting
    for panel in result.panels:
        assert len(panel.curves) >= 2
        for x, y in panel.curves.values():
            assert y.shape == (3, len(x))
            assert np.isfinite(y).any()
    json.dumps(result.to_dict(), allow_nan=False)
    pytest.importorskip("matplotlib")
    result.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_figures(setting):
    table = dataclasses.replace(tables.gradient(setting), shape={"epochs": 3})
    first, again = (run_table(table, setting, silent) for _ in range(2))
    assert first.rows == again.rows
    other = run_table(table, dataclasses.replace(setting, seeds=(7, 8, 9)), silent)
    assert other.rows != first.rows


def test_watch_measures_means_and_deviations_of_layers(setting):
    """It agrees with the definitions, on a network whose weights never change."""
    x = setting.data.X_train[:100].astype(np.float64)
    watch = shift.Watch(x)
    runner.train(setting, seed=0, epochs=3, batch_size=64, callbacks=[watch], lr=0.0)
    (means,), (deviations,) = watch.means[0], watch.deviations[0]
    assert means.shape == deviations.shape == (16,)
    np.testing.assert_array_equal(watch.moved(0), 0.0)
    # lr 0: gamma is 1 and beta 0, and LeakyReLU about halves the spread of a standardized unit
    assert 0.2 < means.mean() < 0.6
    assert 0.3 < deviations.mean() < 0.9


def test_the_exact_gradient_is_the_better_one_on_digits(script):
    result = script.run("gradient", make_setting(True, 0), silent)
    assert any(
        finding == "at lr 0.005 the exact gradient ends with the better test accuracy: yes"
        for finding in result.findings
    )


def test_calibration_beside_its_definition(rng):
    confidence = rng.uniform(0.1, 1.0, 1000)
    confidence[:3] = 0.1, 0.3, 1.0
    correct = rng.uniform(size=1000) < confidence**2
    said = output.Outputs(0.0, 0.0, confidence, correct, confidence)
    accuracies, error = said.reliability(), 0.0
    for i in range(output.BINS):
        low, high = i / output.BINS, (i + 1) / output.BINS
        last = i == output.BINS - 1
        inside = (confidence >= low) & ((confidence < high) | last)
        if not inside.any():
            assert np.isnan(accuracies[i])
            continue
        assert accuracies[i] == pytest.approx(correct[inside].mean())
        error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert said.calibration_error() == pytest.approx(error)
    assert 0.1 < error < 0.25


def test_normalized_outputs_are_less_confident_on_digits(script):
    result = script.run("output", make_setting(True, 0), silent)
    assert result.findings[-3:-1] == [
        "after 20 epochs normalized outputs have the smaller margins: yes",
        "after 20 epochs normalized outputs have the smaller calibration error: no, the opposite",
    ]


def test_a_claim_compares_the_best_of_each_variant(setting, monkeypatch):
    """If a claim names a rate, it compares the variants at that rate."""
    reached = {("a", 1.0): 3, ("a", 2.0): 1, ("b", 1.0): 2, ("b", 2.0): 2}

    def train(setting, *, seed, lr, name):
        return None, a_run([0.0] * (reached[name, lr] - 1) + [1.0])

    monkeypatch.setattr(runner, "train", train)
    claims = [
        runner.Claim("a is the faster", "epochs", "a", "b"),
        runner.Claim("at 1", "epochs", ("a", 1.0), ("b", 1.0)),
    ]
    table = Table(
        "t", "?", ("network",), {"a": {"name": "a"}, "b": {"name": "b"}}, ("epochs",), claims,
        rates=(1.0, 2.0),
    )  # fmt: skip
    result = run_table(table, setting, silent)
    assert result.columns == ("network", "best learning rate", "epochs to 98%")
    assert result.rows == [["a", "2, the largest tried", "1"], ["b", "1, the smallest tried", "2"]]
    assert result.findings == ["a is the faster: yes", "at 1: no, the opposite"]
    every = run_table(dataclasses.replace(table, every_rate=True), setting, silent)
    assert [row[1] for row in every.rows] == ["1", "2 (best)", "1 (best)", "2"]


def test_the_script(tmp_path):
    pytest.importorskip("matplotlib")

    def run(*arguments):
        command = [sys.executable, str(FOLDER), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    options = ["--json", "shift.json", "--plot", "shift.png", "--seed", "3"]
    done = run("shift", "--quick", *options)
    assert done.returncode == 0, done.stderr
    assert "seeds 3 to 5" in done.stdout
    assert "| layer | network | mean, first to last epoch |" in done.stdout
    assert json.loads((tmp_path / "shift.json").read_text())["name"] == "shift"
    assert (tmp_path / "shift.png").read_bytes().startswith(b"\x89PNG")
    assert "invalid choice: 'speed'" in run("speed").stderr


def test_full_experiments_take_fashion_mnist(monkeypatch):
    asked = []
    monkeypatch.setattr(runner.datasets, "load", lambda name: asked.append(name) or None)
    make_setting(False, 0)
    assert asked == ["fashion-mnist"]


def test_the_page_names_every_experiment():
    page = (FOLDER.parents[1] / "docs" / "experiments.md").read_text()
    for name in NAMES:
        assert f"python examples/experiments {name}" in page
        assert f"experiments/{name}.png" in page
