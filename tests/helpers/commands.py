"""Helpers for tests of the command line: run it, read its tables, write a small CSV."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from fastbn.cli._app import app

# Options of a training run of milliseconds.
QUICK = ["--epochs", "3", "--hidden", "8", "--batch-size", "16"]

KINDS = ["ant", "bee", "moth"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    """Return the standard output of a command that must not fail."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(output):
    """Return names and values of a table, which ends with the first empty line."""
    table = output.partition("\n\n")[0]
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in table.splitlines())


def samples(n=60):
    """Draw samples of three classes that are easy to separate: X (n, 4) and labels from 0 to 2."""
    y = np.arange(n) % 3
    X = np.random.default_rng(20261123).normal(size=(n, 4)) + 3.0 * y[:, None]
    return X.round(4), y


def write_csv(path, X, labels=None, *, header=True, label_first=False):
    """Write a CSV of features and, if given, labels."""
    lines = [["length", "width", "weight", "age"], *X.tolist()] if header else X.tolist()
    if labels is not None:
        column = ["kind", *labels] if header else list(labels)
        pairs = zip(lines, column, strict=True)
        lines = [[end, *line] if label_first else [*line, end] for line, end in pairs]
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


def write_insects(folder):
    X, y = samples()
    return write_csv(folder / "insects.csv", X, np.array(KINDS)[y])
