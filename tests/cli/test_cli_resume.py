"""`fastbn train --checkpoint` and `--resume`."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from commands import run, succeed, write_insects
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

LONG = ["--hidden", "16,16", "--epochs", "60", "--batch-size", "8", "--no-plot"]

# Run the command line, and send it a signal after its second checkpoint.
SIGNALLED = """
import os, sys
from fastbn.model import checkpoint
from fastbn.cli import main
number, written, write = int(sys.argv.pop(1)), [], checkpoint.CheckpointFile.write
def write_and_signal(file, state):
    write(file, state)
    written.append(state)
    if len(written) == 2:
        os.kill(os.getpid(), number)
checkpoint.CheckpointFile.write = write_and_signal
main()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_insects(tmp_path)
    return tmp_path


def train(*arguments, python=("-m", "fastbn")):
    command = [sys.executable, *python, "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "expected"), [("SIGKILL", -9), ("SIGTERM", -15), ("SIGINT", 1)])
def test_a_killed_training_is_resumed(folder, name, expected):
    options = ["insects.csv", *LONG, "--checkpoint", "c", "--checkpoint-every", "40"]
    python = ["-c", SIGNALLED, str(getattr(signal, name).value)]
    done = train(*options, "--out", "killed", python=python)
    assert done.returncode == expected, done.stderr
    if name == "SIGINT":
        assert "fastbn train --resume c continues it" in done.stderr
        assert os.path.exists("killed")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)  # the data are found from another folder
    done = train("--resume", "../c", "--no-plot")
    assert done.returncode == 0, done.stderr
    assert "60 of at most 60" in done.stdout
    os.chdir(folder)
    succeed("train", "insects.csv", *LONG, "--out", "whole")
    there = (elsewhere / "fastbn-insects.safetensors").read_bytes()
    assert there == (folder / "whole").read_bytes()


def test_a_training_that_is_over_is_shown_again():
    arguments = ["--epochs", "3", "--hidden", "8", "--batch-size", "16", "--no-plot"]
    succeed("train", "insects.csv", *arguments, "--checkpoint", "c", "--out", "one")
    before = pathlib.Path("c").read_bytes()
    output = succeed("train", "--resume", "c", "--out", "two", "--no-plot")
    assert "3 of at most 3" in output
    assert pathlib.Path("c").read_bytes() == before  # nothing was trained again
    assert pathlib.Path("one").read_bytes() == pathlib.Path("two").read_bytes()


def rewrite(change):
    with safe_open("c", "numpy") as file:
        header = json.loads(file.metadata()["fastbn"])
    change(header["metadata"])
    save_file(load_file("c"), "c", {"fastbn": json.dumps(header)})


def test_refused(folder):
    succeed("train", "insects.csv", "--epochs", "2", "--no-plot", "--checkpoint", "c", "--out", "m")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for options, message in (
        (["--epochs", "9"], "cannot be used with --epochs"),
        (["--out", "c"], "c is the model's file"),
    ):
        result = run("train", "--no-plot", "--resume", "c", *options)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.stderr.replace("│", " ").split())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata.pop("job"),
        lambda metadata: metadata.update(job=3),
        lambda metadata: metadata["job"].pop("data"),
        lambda metadata: metadata["job"].update(data=5),
        lambda metadata: metadata["job"].update(settings=[]),
        lambda metadata: metadata["job"]["settings"].pop("lr"),
        lambda metadata: metadata["job"]["settings"].update(lr="fast"),
        lambda metadata: metadata["job"]["settings"].update(hidden="wide"),
        lambda metadata: metadata["job"]["settings"].update(hidden=5),
        lambda metadata: metadata["job"]["settings"].update(hidden=[60_000, 60_000]),
        lambda metadata: metadata["job"]["settings"].update(optimizer="sgd"),
        lambda metadata: metadata["job"].update(test_size="half"),
        lambda metadata: metadata["job"]["settings"].update(batch_size=0),
        lambda metadata: metadata["job"].update(target=[1]),
    ],
)
def test_a_job_that_is_malformed(folder, change):
    succeed("train", "insects.csv", "--epochs", "2", "--no-plot", "--checkpoint", "c", "--out", "m")
    rewrite(change)
    result = run("train", "--resume", "c", "--no-plot", "--out", "new")
    assert result.exit_code == 1
    assert result.stderr.startswith("fastbn: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not (folder / "new").exists()


def test_data_that_have_changed_are_named(folder):
    """Columns or rows are in another order."""
    succeed("train", "insects.csv", "--epochs", "2", "--no-plot", "--checkpoint", "c", "--out", "m")
    path = folder / "insects.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    columns = [[line[i] for i in (1, 0, 2, 3, 4)] for line in lines]
    for others in (columns, [lines[0], *lines[:0:-1]]):
        path.write_text("".join(",".join(line) + "\n" for line in others))
        result = run("train", "--resume", "c", "--no-plot")
        assert result.exit_code == 1
        assert result.stderr == (
            f"fastbn: error: {path}: expected the data that the checkpoint c was written for, got "
            "other data, or rows or columns in another order\n"
        )
