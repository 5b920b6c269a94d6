"""The command line: `train`, its files and exit codes, and mistakes of users."""

from __future__ import annotations

import inspect
import json
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
import typer
from cases import JIT_DISABLED
from commands import QUICK, rows, run, succeed, write_insects

import fastbn
from fastbn.cli import _presets
from fastbn.cli._app import app
from fastbn.fit import progress
from fastbn.jit import listeners
from fastbn.model import BatchNormMLP
from fastbn.model.engine import Engine


@pytest.fixture(autouse=True)
def insects(tmp_path, monkeypatch):
    """Write a CSV to the current folder, which is otherwise empty."""
    monkeypatch.chdir(tmp_path)
    return write_insects(tmp_path)


def train_in_a_process(arguments, before=""):
    """Run `fastbn train` in a new process, after the Python code `before`."""
    code = f"""
import signal, sys
{before}
sys.argv = ["fastbn", "train", *{arguments!r}]
from fastbn.cli import main
main()
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


# -- a training run --------------------------------------------------------------------------------


def test_train_saves_a_model_and_a_picture_and_prints_a_table(insects, tmp_path):
    pytest.importorskip("matplotlib")
    table = rows(succeed("train", insects, *QUICK))
    assert table["data"] == "insects: 48 training and 12 test samples, 4 features, 3 classes"
    model = BatchNormMLP.load(tmp_path / "fastbn-insects.safetensors")
    assert table["network"] == "4-8-3, 78 parameters"
    assert sum(view.size for _, view in model.named_parameters()) == 78
    assert table["epochs"] == "3 of at most 3, 9 steps"
    assert model.steps == 9
    assert table["stopped"] == "all epochs are done"
    assert table["model"] == "fastbn-insects.safetensors"
    assert table["picture"] == "fastbn-insects.png"
    assert (tmp_path / "fastbn-insects.png").read_bytes().startswith(b"\x89PNG")
    data = fastbn.datasets.load(str(insects))
    loss, accuracy = model.evaluate(data.X_test, data.y_test)
    assert table["test"] == f"accuracy {100 * accuracy:.2f} %, loss {loss:.4f}"
    assert model.metadata == {
        "class_names": ["ant", "bee", "moth"],
        "data": "insects",
        "fastbn_version": fastbn.__version__,
        "feature_names": ["length", "width", "weight", "age"],
        "split": {"target": None, "test_size": 0.2},
        "target_name": "kind",
    }


@pytest.mark.skipif(JIT_DISABLED, reason="takes the compiler")
def test_the_defaults_learn_the_digits():
    table = rows(succeed("train", "--no-plot"))
    assert table["data"].startswith("digits: ")
    assert float(table["test"].split()[1]) > 97.0
    assert float(table["training"].split()[1]) > 99.0


def test_options_reach_the_model_and_the_fit(insects):
    succeed(
        "train", insects, "--no-plot", "--out", "m.safetensors", "--hidden", "6,5",
        "--activation", "relu", "--negative-slope", "0.2", "--no-batch-norm-output",
        "--eps", "1e-3", "--momentum", "0.3", "--gradient", "detached", "--dtype", "float64",
        "--input-normalization", "none", "--optimizer", "adamw", "--lr", "0.003",
        "--betas", "0.8,0.95", "--optimizer-eps", "1e-7", "--weight-decay", "0.01",
        "--max-norm", "2", "--dropout", "0.1", "--seed", "7", "--epochs", "2",
        "--batch-size", "24", "--schedule", "none", "--no-shuffle", "--test-size", "0.5",
    )  # fmt: skip
    model = BatchNormMLP.load("m.safetensors")
    expected = BatchNormMLP(
        (4, 6, 5, 3), activation="relu", negative_slope=0.2, batch_norm_output=False, eps=1e-3,
        momentum=0.3, gradient="detached", dtype="float64", input_normalization=None,
        optimizer="adamw", lr=0.003, betas=(0.8, 0.95), optimizer_eps=1e-7, weight_decay=0.01,
        max_norm=2.0, dropout=0.1, seed=7,
    )  # fmt: skip
    assert model.config == expected.config
    data = fastbn.datasets.load(str(insects), test_size=0.5)
    expected.fit(data.X_train, data.y_train, epochs=2, batch_size=24, shuffle=False)
    np.testing.assert_array_equal(model.params, expected.params)


def test_default_settings_are_those_of_the_model():
    signature = inspect.signature(BatchNormMLP).parameters
    defaults = {name: p.default for name, p in signature.items() if name != "layer_sizes"}
    chosen = {"lr": 0.02, "input_normalization": "zscore"}
    assert {**defaults, **chosen} == _presets.MODEL
    assert set(_presets.FIT) <= set(inspect.signature(BatchNormMLP.fit).parameters)


def test_options_override_the_notes_preset(insects):
    table = rows(succeed("train", insects, "--preset", "notes", "--no-plot", "--epochs", "2"))
    config = BatchNormMLP.load("fastbn-insects.safetensors").config
    assert config.layer_sizes == (4, 32, 3)
    assert (config.lr, config.betas, config.input_normalization) == (0.05, (0.9, 0.99), "minmax")
    assert table["epochs"] == "2 of at most 2, 20 steps"  # ten minibatches an epoch
    succeed("train", insects, "--preset", "notes", "--no-plot", *QUICK, "--lr", "0.01")
    model = BatchNormMLP.load("fastbn-insects.safetensors")
    assert (model.config.layer_sizes, model.config.lr, model.steps) == ((4, 8, 3), 0.01, 9)


def test_the_notes_preset_has_batches_of_6000_on_fashion_mnist():
    settings = _presets.settings("notes", {})
    assert _presets.batch_size(settings, 60_000) == 6_000
    assert _presets.batch_size(_presets.settings("notes", {"batch_size": 64}), 60_000) == 64
    assert _presets.batch_size(_presets.settings(None, {}), 60_000) == 128


DIVERGES = [
    "--no-batch-norm", "--optimizer", "sgd", "--lr", "1e30", "--on-divergence", "stop",
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--until-accuracy", "0.5", "--epochs", "500"], "training accuracy is above 0.5"),
        (["--early-stopping", "2", "--epochs", "5000"], "no better for 2 epochs; back at the best"),
        (
            DIVERGES,
            "a loss or gradient was not finite or too large; the model is as it was before that "
            "step",
        ),
        (
            [*DIVERGES, "--early-stopping", "2"],
            "a loss or gradient was not finite or too large; the model is as it was before it, or "
            "after the best epoch",
        ),
    ],
)
def test_training_that_stops_early_says_why(insects, options, why):
    table = rows(succeed("train", insects, *QUICK, *options, "--no-plot"))
    assert table["stopped"] == why


def test_no_hidden_layer_no_validation_no_picture(insects, tmp_path):
    succeed("train", insects, *QUICK, "--hidden", "none", "--no-validation", "--no-plot")
    assert BatchNormMLP.load("fastbn-insects.safetensors").config.layer_sizes == (4, 3)
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".safetensors"}


def test_quiet_prints_nothing(insects):
    result = run("train", insects, *QUICK, "--quiet", "--no-plot")
    assert (result.exit_code, result.output) == (0, "")


def test_the_picture_goes_where_it_is_told(insects, tmp_path):
    pytest.importorskip("matplotlib")
    succeed("train", insects, *QUICK, "--plot", "p.svg", "--out", "m.safetensors")
    assert (tmp_path / "p.svg").read_bytes().startswith(b"<?xml")


def test_without_matplotlib_one_line_says_so(insects, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    for options in ([], ["--plot", "p.png"]):
        result = run("train", insects, *QUICK, *options)
        assert result.exit_code == 0
        (line,) = [line for line in result.stderr.splitlines() if "compiling" not in line]
        assert "no picture" in line
        assert "fastbn[plot]" in line
        assert "picture" not in rows(result.stdout)


# -- processes -------------------------------------------------------------------------------------

AFTER_STEPS = """
from fastbn.model.engine import Engine
take_steps = Engine.take_steps
def interrupted(self, *args):
    done = take_steps(self, *args)
    signal.raise_signal(signal.SIGINT)
    return done
Engine.take_steps = interrupted
"""
BEFORE_STEPS = """
from fastbn.model.engine import Engine
begin = Engine.begin
def interrupted(self, *args):
    Engine.begin = begin
    signal.raise_signal(signal.SIGINT)
    return begin(self, *args)
Engine.begin = interrupted
"""
WHILE_LOADING = """
from fastbn import datasets
datasets.load = lambda *args, **kwargs: signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_saves_what_has_been_learned(insects):
    done = train_in_a_process([str(insects), "--epochs", "1000", "--no-plot"], AFTER_STEPS)
    assert done.returncode == 1
    assert rows(done.stdout)["stopped"] == "by Ctrl-C"
    assert "interrupted: fastbn-insects.safetensors holds the model after step 1\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert BatchNormMLP.load("fastbn-insects.safetensors").steps == 1


@pytest.mark.parametrize(
    ("before", "message"),
    [(BEFORE_STEPS, "there is nothing to save"), (WHILE_LOADING, "interrupted")],
)
def test_ctrl_c_before_the_first_step_saves_nothing(insects, tmp_path, before, message):
    done = train_in_a_process([str(insects), "--no-plot"], before)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.parametrize(("option", "lines"), [("--no-plot", 1), ("--progress", 1), ("--quiet", 0)])
def test_compiling_is_announced_once(insects, monkeypatch, option, lines):
    """The compiling may happen before a fit's steps, during them, or in the evaluation after it."""
    arguments = ["train", insects, *QUICK, "--no-plot", option]
    run(*arguments)  # compiles everything
    assert "compiling" not in run(*arguments).output

    def compiling(method):
        def call(self, *args):
            listeners.announce(call, "float32")
            return method(self, *args)

        return call

    monkeypatch.setattr(progress, "_announced", False)
    for owner, name in ((Engine, "take_steps"), (BatchNormMLP, "evaluate")):
        monkeypatch.setattr(owner, name, compiling(getattr(owner, name)))
    result = run(*arguments)
    assert result.stderr.count("compiling kernels") == lines
    assert result.stdout.count("compiling included") == lines


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", *QUICK, "--quiet"], 0),
        (["train", *QUICK, "--no-plot", "--hidden", "8;8"], 2),
        (["train", "nothing.csv"], 1),
        (["evaluate", "m.safetensors", "insects.csv"], 0),
        (["predict", "m.safetensors", "moved.csv", "--out", "p.csv"], 0),
        (["info", "m.safetensors"], 0),
        (["doctor"], 0),
        (["--help"], 0),
        (["--version"], 0),
        (["trian"], 2),
    ],
)
def test_without_standard_streams(insects, tmp_path, arguments, code):
    """Programs without a console, such as pythonw.exe, have none."""
    if "m.safetensors" in arguments:
        succeed("train", insects, *QUICK, "--no-plot", "--out", "m.safetensors")
        columns = [line.split(",") for line in insects.read_text().splitlines()]
        text = "".join(f"{','.join(['id', *line[::-1]])}\n" for line in columns)
        (tmp_path / "moved.csv").write_text(text)
    script = f"""
import sys
sys.stdin = sys.stdout = sys.stderr = None
sys.argv = ["fastbn", *{arguments!r}]
from fastbn.cli import main
try:
    main()
except BaseException as error:
    with open("left", "w") as file:
        file.write(repr(error))
    raise
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    left = (tmp_path / "left").read_text()
    assert (done.returncode, left) == (code, f"SystemExit({code})"), done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "p.csv").exists() == ("p.csv" in arguments)


@pytest.mark.parametrize("table", [True, False])
def test_tables_without_a_stdout(monkeypatch, table):
    from fastbn.cli import _output

    monkeypatch.setattr(sys, "stdout", None)
    if table:
        _output.print_table(["a", "b"], [["1", "2"]])
    else:
        _output.print_rows([("a", "1")])
    assert not _output._is_terminal()


def test_training_imports_nothing_that_it_does_not_need(insects):
    before = f"""
import atexit
heavy = {["sklearn", "torch", "matplotlib", "pooch", "pandas"]}
atexit.register(lambda: print([m for m in heavy if m in sys.modules]))
"""
    done = train_in_a_process([str(insects), *QUICK, "--no-plot", "--quiet"], before)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.parametrize("package", ["typer", "rich.console"])
def test_without_typer_or_rich_one_line_says_what_to_install(package):
    done = train_in_a_process([], f"sys.modules[{package!r}] = None")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "pip install 'fastbn[cli]'" in done.stderr


def test_version_and_help_do_not_need_numba():
    for arguments in (["--version"], ["--help"], ["train", "--help"]):
        code = (
            f"import sys; sys.argv = ['fastbn', *{arguments!r}]; sys.modules['numba'] = None\n"
            "from fastbn.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert "--until-accuracy" in done.stdout
    assert succeed("--version").strip() == f"fastbn {fastbn.__version__}"


def test_the_guides_command_lines_are_right():
    guide = (pathlib.Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    block = guide.partition("## The command line\n\n```\n")[2].partition("```")[0]
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert {command for command, *_ in lines} == {"train", "predict"}
    commands = typer.main.get_command(app).commands
    for command, *arguments in lines:
        commands[command].make_context(command, arguments)  # raises if it is wrong


def test_doctor_prints_a_table_and_the_same_as_json():
    from fastbn.doctor import report

    facts = report().facts
    output = succeed("doctor")
    table = rows(output)
    assert table["numba"] == facts.packages["numba"]
    assert table["cache"].startswith(facts.cache.folder or "none: the compiler is off")
    assert ("Nothing to fix." in output) == (not report().warnings)
    found = json.loads(succeed("doctor", "--json"))
    assert found["packages"] == facts.packages
    assert found["cache"]["folder"] == facts.cache.folder
