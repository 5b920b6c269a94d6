"""A twentieth of each trial of scripts/reliability, and the command that runs them."""

from __future__ import annotations

import pathlib
import runpy
import sys

import pytest
import suite
from cases import JIT_DISABLED
from trial import Trial

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="trials are of compiled code")

FOLDER = pathlib.Path(__file__).parents[2] / "scripts" / "reliability"

# Possible results of a case; `left out` is followed by the reason.
OUTCOMES = {
    "processes": ("right results", "settings respected", "left out"),
    "bits": ("same bits",),
}


@pytest.mark.parametrize("trial", suite.TRIALS, ids=lambda trial: trial.name)
def test_a_twentieth_of(trial, tmp_path):
    found = trial.run(20261126, 0.05, tmp_path)
    assert found.total() == trial.size(0.05)
    for outcome in found:
        assert 0 < len(outcome) < 60
        assert outcome.startswith(OUTCOMES.get(trial.name, outcome))


def broken(seed, count, folder):
    yield "fine"
    raise AssertionError("it is not kept")


def kept(seed, count, folder):
    assert list(folder.iterdir()) == []
    for i in range(count):
        yield f"odd seed {seed}" if i % 2 else "even"


def run_command(monkeypatch, *arguments):
    """Run the command with two trials that are made up; return its exit code."""
    trials = [Trial("bad", "Broken.", 10, broken), Trial("good", "Kept.", 40, kept)]
    monkeypatch.setattr(suite, "TRIALS", trials)
    monkeypatch.setattr(sys, "argv", ["reliability", *arguments])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(FOLDER / "__main__.py"), run_name="__main__")
    return exit_.value.code


def test_a_broken_promise_ends_with_an_error_and_the_seed(monkeypatch, capsys):
    assert run_command(monkeypatch, "--seed", "7", "--share", "0.25") == 1
    output, errors = capsys.readouterr()
    assert output.startswith("seed 7\n")
    assert "broken: bad, seed 7: it is not kept" in errors
    assert "| good | 10 | 5 even, 5 odd seed 7 |" in output


def test_trials_that_are_kept(monkeypatch, capsys):
    assert run_command(monkeypatch, "--only", "good") == 0
    assert "| good | 40 | 20 even" in capsys.readouterr().out
    assert run_command(monkeypatch, "--list") == 0
    assert "Kept." in capsys.readouterr().out
