"""Mistakes of users: one line says what is wrong, the exit code is right, and no work is lost."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from commands import QUICK, run, samples, succeed, write_insects

from fastbn import datasets
from fastbn.model import BatchNormMLP


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Write good data, a good model and a broken one to the current folder."""
    monkeypatch.chdir(tmp_path)
    write_insects(tmp_path)
    pathlib.Path("broken.safetensors").write_bytes(b"\x00" * 100)
    pathlib.Path("empty").mkdir()
    BatchNormMLP((4, 3)).save("m.safetensors")
    return tmp_path


def unwrapped(text):
    """Return the text of a box on one line."""
    return " ".join(text.translate({ord(c): " " for c in "│╭╮╰╯─"}).split())


def test_a_folder_that_cannot_be_written_is_reported_before_training(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = run("train", "insects.csv", "--out", "empty/m.safetensors")
    assert result.exit_code == 2
    assert "cannot write in the folder empty (Permission denied)" in unwrapped(result.stderr)


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(datasets, "load", bug)
    result = run("train", *QUICK)
    assert isinstance(result.exception, ZeroDivisionError)


def test_the_traceback_of_an_error_on_demand():
    assert isinstance(run("info", "nothing").exception, SystemExit)
    assert type(run("--traceback", "info", "nothing").exception).__name__ == "ModelFileError"


@pytest.mark.parametrize("arguments", [["train", "nonsense"], ["info", "broken.safetensors"]])
def test_a_process_fails_like_the_runner(arguments):
    code = f"import sys; sys.argv = ['fastbn', *{arguments!r}]; from fastbn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == run(*arguments).stderr


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path):
    code = """
import sys
sys.argv = ["fastbn", "info", "m.safetensors"]
from fastbn.cli import main
main()
"""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run([sys.executable, "-c", code], stdout=closed, stderr=subprocess.PIPE)
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


def test_a_model_whose_metadata_are_strange_is_still_usable():
    model = BatchNormMLP((4, 3))
    model.metadata = {"class_names": "abc", "split": 5, "data": None}
    model.save("strange.safetensors")
    X, y = samples()
    np.savez("numbered.npz", X=X, y=y)
    succeed("info", "strange.safetensors")
    succeed("evaluate", "strange.safetensors", "numbered.npz")
    succeed("predict", "strange.safetensors", "insects.csv", "--out", "p.csv")


def test_a_training_that_diverges_keeps_the_old_model(folder):
    succeed("train", "insects.csv", "--no-plot", *QUICK)
    before = pathlib.Path("fastbn-insects.safetensors").read_bytes()
    result = run(
        "train", "insects.csv", "--no-plot", *QUICK, "--no-batch-norm", "--optimizer", "sgd",
        "--lr", "1e30", "--schedule", "none",
    )  # fmt: skip
    assert result.exit_code == 1
    assert re.search(r"or too large, first in \S+: nothing is saved", unwrapped(result.stderr))
    assert pathlib.Path("fastbn-insects.safetensors").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_not_a_file_is_not_replaced(folder):
    os.mkfifo("pipe")
    result = run("train", "insects.csv", "--out", "pipe", "--no-plot")
    assert result.exit_code == 2
    assert "expected a regular file" in unwrapped(result.stderr)
