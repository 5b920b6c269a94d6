"""A user's mistake: one line that says what is wrong, an exit code, and no work lost."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from commands import QUICK, run, samples, succeed, write_csv, write_insects

from fastbn import datasets
from fastbn.model import BatchNormMLP


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder: good and bad data, a good and a bad model."""
    monkeypatch.chdir(tmp_path)
    write_insects(tmp_path)
    X, _ = samples(6)
    write_csv(tmp_path / "one_class.csv", X, ["ant"] * 6)
    write_csv(tmp_path / "narrow.csv", X[:, :2], [0, 1] * 3, header=False)
    write_csv(tmp_path / "unlabelled.csv", X)
    pathlib.Path("ragged.csv").write_text("a,b,kind\n1,2,ant\n1,bee\n")
    pathlib.Path("words.csv").write_text("a,b,kind\n1,2,ant\nfour,2,bee\n")
    pathlib.Path("broken.npz").write_bytes(b"not an archive")
    pathlib.Path("broken.safetensors").write_bytes(b"\x00" * 100)
    pathlib.Path("empty").mkdir()
    BatchNormMLP((4, 3)).save("m.safetensors")
    return tmp_path


FAILS = {  # exit code 1
    "unknown data": (["train", "nonsense"], "nonsense: expected .*digits"),
    "no such file": (["train", "nothing.csv"], "nothing.csv: .*No such file"),
    "ragged": (["train", "ragged.csv"], "ragged.csv: line 3: expected 3 columns, found 2"),
    "words": (["train", "words.csv"], "words.csv: line 3, column 'a': .* got 'four'"),
    "one class": (["train", "one_class.csv"], "expected at least two classes"),
    "broken npz": (["train", "broken.npz"], "broken.npz: cannot be read"),
    "empty folder": (["train", "empty"], "empty: expected the file"),
    "unknown target": (["train", "insects.csv", "--target", "x"], "target: expected one of"),
    "test size": (["train", "insects.csv", "--test-size", "1.5"], "test_size: expected a finite"),
    "lr": (["train", "--lr", "-1"], r"lr: expected a finite number in \[0, inf\], got -1.0"),
    "nan": (["train", "--dropout", "nan"], "dropout: expected a finite number"),
    "betas": (["train", "--betas", "0.9"], r"betas: expected a pair, got \(0.9,\)"),
    "beta": (["train", "--betas", "0.9,1"], r"betas\[1\]: expected a finite number in"),
    "seed": (["train", "--seed", "-1"], "seed: expected an integer from 0"),
    "epochs": (["train", "--epochs", "0"], "epochs: expected an integer of at least 1, got 0"),
    "batch size": (["train", "--batch-size", "1"], "batch_size: expected an integer of at least 2"),
    "accuracy": (["train", "--until-accuracy", "90"], "until_accuracy: expected a finite number"),
    "patience": (
        ["train", "--early-stopping", "0"],
        "early_stopping: expected an integer of at least 1",
    ),
    "no model": (["info", "nothing"], "nothing: expected a model file, found none"),
    "no model file": (["info", "insects.csv"], "insects.csv: not a readable safetensors file"),
    "broken model": (["info", "broken.safetensors"], "broken.safetensors: not a readable"),
    "features to evaluate": (
        ["evaluate", "m.safetensors", "narrow.csv"],
        "narrow.csv: expected 4 features, found 2",
    ),
    "features to predict": (
        ["predict", "m.safetensors", "narrow.csv", "--out", "p.csv"],
        "narrow.csv: expected 4 features, found 3",
    ),
    "no labels": (
        ["evaluate", "m.safetensors", "unlabelled.csv", "--all"],
        "unlabelled.csv: expected 4 features and a column of labels",
    ),
    "labels of another kind": (
        ["evaluate", "m.safetensors", "insects.csv"],
        r"labels: expected classes of the model \(0, 1, 2\), got ant, bee, moth",
    ),
}

MISUSES = {  # exit code 2
    "no such command": (["trian"], "No such command 'trian'"),
    "no such option": (["train", "--epoch", "3"], "No such option.*--epoch"),
    "not a number": (["train", "--lr", "fast"], "--lr"),
    "not an integer": (["train", "--epochs", "1.5"], "--epochs"),
    "not an optimizer": (["train", "--optimizer", "lion"], "expected one of adam, .* got 'lion'"),
    "not a preset": (["train", "--preset", "best"], "expected one of notes, got 'best'"),
    "not a schedule": (["train", "--schedule", "up"], "expected one of none, cosine.* got 'up'"),
    "not numbers": (["train", "--hidden", "8;8"], "expected numbers as in 256,128, got '8;8'"),
    "no units": (["train", "--hidden", "8,0"], "--hidden.*expected at least 1 unit.*, got 0"),
    "no numbers": (["train", "--betas", ""], "expected numbers as in 0.9,0.999, got ''"),
    "both": (["train", "--progress", "--quiet"], "--progress.*excludes --quiet"),
    "no such folder": (["train", "--out", "no/m"], "--out.*the folder no does not exist"),
    "out is a folder": (["train", "--out", "empty"], "--out.*expected a file, got the folder"),
    "out is this folder": (["train", "--out", "."], "--out.*expected a file, got the folder"),
    "out has a long name": (["train", "--out", "m" * 300], "--out.*name too long"),
    "checkpoint has a long name": (["train", "--checkpoint", "c" * 300], "--checkpoint.*too long"),
    "out is the data": (
        ["train", "insects.csv", "--out", "insects.csv"],
        "--out.*insects.csv would be overwritten",
    ),
    "plot is the data": (["train", "insects.csv", "--plot", "./insects.csv"], "overwritten"),
    "plot is the model": (["train", "--out", "a.png", "--plot", "a.png"], "the model's file"),
    "no such folder to plot": (["train", "--plot", "no/p.png"], "--plot.*the folder no does not"),
    "no such picture": (["train", "--plot", "p.xyz"], "expected an ending out of .*png.*'p.xyz'"),
    "predict to nowhere": (["predict", "m.safetensors", "insects.csv"], "--out"),
    "predict to text": (
        ["predict", "m.safetensors", "insects.csv", "--out", "p.txt"],
        "expected an ending out of .csv, .npz, .npy, got 'p.txt'",
    ),
    "predict to the data": (
        ["predict", "m.safetensors", "insects.csv", "--out", "insects.csv"],
        "would be overwritten",
    ),
    "no data to evaluate": (["evaluate", "m.safetensors"], "DATA"),
}


def unwrapped(text):
    """What stands in a box, on one line."""
    return " ".join(text.translate({ord(c): " " for c in "│╭╮╰╯─"}).split())


@pytest.mark.parametrize(("arguments", "message"), FAILS.values(), ids=FAILS)
def test_what_fails_says_why_in_one_line(arguments, message, folder):
    before = sorted(folder.iterdir())
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.search("^fastbn: error: .*" + message, result.stderr), result.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("arguments", "message"), MISUSES.values(), ids=MISUSES)
def test_misuse_is_told_before_anything_is_loaded(arguments, message, folder, monkeypatch):
    if "p.xyz" in arguments:
        pytest.importorskip("matplotlib")

    def load(*args, **kwargs):
        raise AssertionError("data were loaded")

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(datasets, "load_features", load)
    before = sorted(folder.iterdir())
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(message, unwrapped(result.stderr)), result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_told_before_training(folder, monkeypatch):
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
def test_a_process_fails_as_the_runner_says(arguments):
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
    assert "nothing is saved" in unwrapped(result.stderr)
    assert pathlib.Path("fastbn-insects.safetensors").read_bytes() == before


def test_layers_beyond_all_memory(folder):
    result = run("train", "insects.csv", "--hidden", 10**22, "--no-plot")
    assert result.exit_code == 1
    assert "layer_sizes[1]" in unwrapped(result.stderr)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_not_a_file_is_not_replaced(folder):
    os.mkfifo("pipe")
    result = run("train", "insects.csv", "--out", "pipe", "--no-plot")
    assert result.exit_code == 2
    assert "expected a regular file" in unwrapped(result.stderr)
