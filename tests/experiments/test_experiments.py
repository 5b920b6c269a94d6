"""Experiments: their figures, what they say, and the command."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from cases import JIT_DISABLED

from fastbn import experiments
from fastbn.experiments import (
    _runs,
    convergence,
    gradient,
    normalization,
    optimizers,
    output,
    shift,
)
from fastbn.experiments._runs import Run, fastest, quick_setting, spread, verdict

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="takes the compiler")


def a_run(training, test=None):
    test = training if test is None else test
    return Run(tuple(training), tuple(test), training[-1], 1.0, False)


def test_epochs_to_a_target():
    run = a_run([0.5, 0.8, 0.7, 0.9])
    assert run.epochs_to(0.8) == 2
    assert run.epochs_to(0.95) == math.inf


def test_medians_and_ranges():
    assert spread([3, 3, 3]) == "3"
    assert spread([5, 3, 4]) == "4 (3 to 5)"
    assert spread([3, math.inf, 4]) == "4 (3 to never)"
    assert _runs.percent([0.981, 0.975, 0.99]) == "98.1 (97.5 to 99.0)"


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


def test_a_rate_at_the_edge_is_told():
    assert _runs.rate_text(0.01, (0.001, 0.01, 0.1)) == "0.01"
    assert _runs.rate_text(0.001, (0.001, 0.01, 0.1)) == "0.001, the smallest tried"
    assert _runs.rate_text(0.1, (0.001, 0.01, 0.1)) == "0.1, the largest tried"


def test_a_divergence_leaves_a_gap():
    x, y = _runs.curve([a_run([0.5]), a_run([0.4, 0.6])], "training", 3)
    assert x.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(y, [[0.5, np.nan, np.nan], [0.4, 0.6, np.nan]])


@pytest.fixture
def setting():
    return dataclasses.replace(quick_setting(0, lambda line: None), epochs=4, hidden=(16,))


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_shows_a_table_and_curves(name, setting, tmp_path, monkeypatch):
    for module in (convergence, normalization):
        monkeypatch.setattr(module, "RATES", (0.003, 0.01))
    monkeypatch.setattr(optimizers, "RATES", {k: v[:1] for k, v in optimizers.RATES.items()})
    monkeypatch.setattr(gradient, "EPOCHS", 12)
    result = experiments.EXPERIMENTS[name](setting)
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
    first, again = gradient.run(setting), gradient.run(setting)
    assert first.rows == again.rows
    other = gradient.run(dataclasses.replace(setting, seeds=(7, 8, 9)))
    assert other.rows != first.rows


def test_what_the_watch_of_the_layers_sees(setting):
    """Beside the definitions, on a net whose weights do not change between two looks."""
    x = setting.data.X_train[:100].astype(np.float64)
    watch = shift.Watch(x)
    _runs.train(setting, "batch norm", seed=0, epochs=3, batch_size=64, callbacks=[watch], lr=0.0)
    (means,), (deviations,) = watch.means[0], watch.deviations[0]
    assert means.shape == deviations.shape == (16,)
    np.testing.assert_array_equal(watch.moved(0), 0.0)
    # lr 0: gamma 1 and beta 0, and LeakyReLU of a standardized unit has half its spread or so
    assert 0.2 < means.mean() < 0.6
    assert 0.3 < deviations.mean() < 0.9


def test_the_exact_gradient_is_the_better_one_on_digits():
    result = experiments.run("gradient", quick=True)
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


def test_normalized_outputs_are_less_confident_on_digits():
    result = experiments.run("output", quick=True)
    assert result.findings[-3:-1] == [
        "after 20 epochs normalized outputs have the smaller margins: yes",
        "after 20 epochs normalized outputs have the smaller calibration error: no, the opposite",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "speed"}, ValueError, "name: expected"),
        ({"name": "shift", "seed": -1}, ValueError, "seed"),
        ({"name": "shift", "seed": 2**32 - 1}, ValueError, "seed"),
        ({"name": "shift", "seed": 0.5}, TypeError, "seed"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        experiments.run(**arguments)


def test_the_command(tmp_path, monkeypatch):
    from commands import run, succeed

    from fastbn.cli import _experiment

    assert set(experiments.EXPERIMENTS) == set(_experiment.NAMES)
    monkeypatch.chdir(tmp_path)
    output = succeed("experiment", "shift", "--quick", "--json", "shift.json", "--seed", "3")
    assert "seeds 3 to 5" in output
    assert "Medians of three seeds" in output
    assert (tmp_path / "experiment-shift.png").exists()
    assert json.loads((tmp_path / "shift.json").read_text())["name"] == "shift"
    for arguments, message in (
        (["speed"], "expected one of convergence"),
        (["shift", "--plot", "a.png", "--no-plot"], "excludes --no-plot"),
        (["shift", "--plot", "a.txt"], "expected an ending"),
        (["shift", "--json", "no/a.json"], "does not exist"),
    ):
        result = run("experiment", *arguments)
        assert result.exit_code != 0
        assert message in " ".join(result.output.replace("│", " ").split())


def test_full_experiments_take_fashion_mnist(monkeypatch):
    asked = []
    monkeypatch.setattr(_runs.datasets, "load", lambda name: asked.append(name) or None)
    _runs.full_setting(0, print)
    assert asked == ["fashion-mnist"]
