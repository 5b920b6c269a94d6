"""Wrong command lines: one line names the option or the file, and no file changes."""

from __future__ import annotations

import pathlib
import re

import pytest
import wrong
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner
from unreadable import CSV_FILES, MODEL_FILES, NPZ_FILES, write_files

from fastbn import datasets
from fastbn.cli._app import app

# Wrong values: fixed ones, and those that hypothesis draws.
WORD = st.from_regex(r"[a-zO,]{1,4}", fullmatch=True).filter(lambda s: s not in ("nan", "inf"))
NUMBER = ("fast", "", "nan", "inf", "-1", WORD, st.floats(-1e9, -1e-9).map(str))
SHARE = (*NUMBER, "1.5", st.floats(1.001, 1e9).map(str))
COUNT = ("fast", "", "1.5", "-1", "0", WORD, st.integers(-(10**30), 0).map(str))
CHOICE = ("nonsense", "", "ADAM ")
SEED = ("fast", "-1", str(2**32), WORD)
THREADS = (*COUNT, "1000000")
PLACE = ("no/such", "folder", "text.csv/in")
PICTURE = ("no/such.png", "folder.png", "picture.xyz")
OUT = (*PLACE, "good.csv")

# Command: good arguments, and wrong values of each option.
OPTIONS = {
    "train": (
        ["good.csv", "--no-plot"],
        {
            "--target": ("x", "9", "-9"),
            "--test-size": (*SHARE, "0", "1"),
            "--preset": CHOICE,
            "--hidden": ("0", "-1", "a", "8;8", "1.5", "", "8,", str(10**22)),
            "--activation": CHOICE,
            "--negative-slope": SHARE,
            "--input-normalization": CHOICE,
            "--dropout": (*SHARE, "1"),
            "--dtype": CHOICE,
            "--seed": SEED,
            "--eps": NUMBER,
            "--momentum": SHARE,
            "--gradient": CHOICE,
            "--optimizer": CHOICE,
            "--lr": NUMBER,
            "--schedule": CHOICE,
            "--betas": ("0.9", "0.9,1", "-1,0.9", "a,b", "none", "0.9,nan"),
            "--optimizer-eps": NUMBER,
            "--weight-decay": NUMBER,
            "--max-norm": (*NUMBER, "0"),
            "--epochs": COUNT,
            "--batch-size": (*COUNT, "1"),
            "--until-accuracy": ("fast", "nan", "-0.1", "90"),
            "--early-stopping": COUNT,
            "--on-divergence": CHOICE,
            "--checkpoint": OUT,
            "--out": OUT,
            "--resume": ("nothing", "folder", "good.csv", "other.safetensors", *MODEL_FILES),
        },
    ),
    "evaluate": (["other.safetensors", "good.csv"], {"--target": ("x", "9"), "--test-size": SHARE}),
    "predict": (
        ["other.safetensors", "good.csv", "--out", "new.csv"],
        {
            "--target": ("x", "9"),
            "--out": ("new.txt", "new", "no/new.csv", "folder", "good.csv", "other.safetensors"),
        },
    ),
    "bench": (
        ["--suite", "step"],
        {
            "--against": ("nonsense", "torch,nonsense"),
            "--suite": CHOICE,
            "--random": ("-1", "1.5", "many", "1001"),
            "--threads": THREADS,
            "--json": PLACE,
            "--plot": PICTURE,
        },
    ),
    "profile": (
        ["4-3"],
        {
            "--batch": (*COUNT, "1"),
            "--threads": THREADS,
            "--steps": COUNT,
            "--json": PLACE,
            "--plot": PICTURE,
            "--trace": PLACE,
        },
    ),
    "warmup": ([], {"--dtype": CHOICE}),
}

# Commands, the number of an argument, and unreadable files to put there.
FILES = [
    ("train good.csv", 1, ["nothing", "folder", "nothing.csv", *CSV_FILES, *NPZ_FILES]),
    ("evaluate other.safetensors good.csv", 1, ["nothing", "folder", *MODEL_FILES]),
    (
        "evaluate other.safetensors good.csv",
        2,
        ["nothing", "nan.csv", "ragged.csv", "nan.npz", "cut.npz", "three", "one-column.csv"],
    ),
    ("predict other.safetensors good.csv --out new.csv", 1, ["nothing", "folder", *MODEL_FILES]),
    (
        "predict other.safetensors good.csv --out new.csv",
        2,
        ["nothing", "nan.csv", "latin.csv", "pickled.npz", "three", "huge", "one-column.csv"],
    ),
    ("info other.safetensors", 1, ["nothing", "folder", "good.csv", *MODEL_FILES]),
    ("profile 4-3", 1, ["nothing", "folder", "good.csv", *MODEL_FILES]),
]

# Command lines that fail with exit code 1, and their one-line message.
FAILS = {
    "train nonsense": "nonsense: expected .*digits",
    "train nothing.csv": "nothing.csv: .*No such file",
    "train ragged.csv": "ragged.csv: line 3: expected 3 columns, found 2",
    "train word.csv": "word.csv: line 3, column 'a': .* got 'four'",
    "train one-class.csv": "expected at least two classes",
    "train text.npz": "text.npz: cannot be read",
    "train folder": "folder: expected the file",
    "train good.csv --target x": "target: expected one of",
    "train good.csv --test-size 1.5": "test_size: expected a finite",
    "train good.csv --lr -1": r"lr: expected a finite number in \[0, inf\], got -1.0",
    "train good.csv --dropout nan": "dropout: expected a finite number",
    "train good.csv --betas 0.9": r"betas: expected a pair, got \(0.9,\)",
    "train good.csv --betas 0.9,1": r"betas\[1\]: expected a finite number in",
    "train good.csv --seed -1": "seed: expected an integer from 0",
    "train good.csv --epochs 0": "epochs: expected an integer of at least 1, got 0",
    "train good.csv --batch-size 1": "batch_size: expected an integer of at least 2",
    "train good.csv --until-accuracy 90": "until_accuracy: expected a finite number",
    "train good.csv --early-stopping 0": "early_stopping: expected an integer of at least 1",
    "train good.csv --checkpoint c --checkpoint-every 0": "checkpoint_every: ",
    f"train good.csv --hidden {10**22}": r"layer_sizes\[1\]",
    "train --resume nothing": "nothing: expected a model file, found none",
    "train --resume good.csv": "good.csv: not a readable safetensors file",
    "train --resume other.safetensors": "expected a checkpoint of 'fastbn train', got another",
    "evaluate other.safetensors one-column.csv": "one-column.csv: expected 2 features, found 0",
    "evaluate other.safetensors two-rows.csv --all": "two-rows.csv: expected 2 features and a col",
    "evaluate other.safetensors good.csv":
        r"labels: expected classes of the model \(0, 1\), got a, b",
    "evaluate other.safetensors good.csv --all --target x": "target",
    "predict other.safetensors one-column.csv --out p.csv":
        "one-column.csv: expected 2 features, found 1",
    "info nothing": "nothing: expected a model file, found none",
    "info good.csv": "good.csv: not a readable safetensors file",
    "info zeros.safetensors": "zeros.safetensors: not a readable",
    "profile 4": "layer_sizes",
    "profile 4-0": r"layer_sizes\[1\]",
}  # fmt: skip

# Wrong usage, refused with exit code 2 before any data are loaded.
MISUSES = {
    "trian": "No such command 'trian'",
    "--nonsense": "No such option.*--nonsense",
    "train --epoch 3": "No such option.*--epoch",
    "train good.csv text.csv": "unexpected extra argument",
    "train --lr fast": "--lr",
    "train --epochs 1.5": "--epochs",
    "train --optimizer other": "expected one of adam, .* got 'other'",
    "train --preset best": "expected one of notes, got 'best'",
    "train --schedule up": "expected one of none, cosine.* got 'up'",
    "train --hidden 8;8": "expected numbers as in 256,128, got '8;8'",
    "train --hidden 8,0": "--hidden.*expected at least 1 unit.*, got 0",
    "train --betas=": "expected numbers as in 0.9,0.999, got ''",
    "train good.csv --progress --quiet": "--progress.*cannot be used with --quiet",
    "train good.csv --no-plot --plot p.png": "--plot.*cannot be used with --no-plot",
    "train --out no/m": "--out.*the folder no does not exist",
    "train --out folder": "--out.*expected a file, got the folder",
    "train --out .": "--out.*expected a file, got the folder",
    "train --out " + "m" * 300: "--out.*name too long",
    "train --checkpoint " + "c" * 300: "--checkpoint.*too long",
    "train --checkpoint no/c": "the folder no does not exist",
    "train good.csv --checkpoint good.csv": "good.csv would be overwritten",
    "train good.csv --out good.csv": "--out.*good.csv would be overwritten",
    "train good.csv --plot ./good.csv": "overwritten",
    "train good.csv --out m --checkpoint m": "--checkpoint.*the model's file",
    "train good.csv --out m.png --plot m.png": "--plot.*the model's file",
    "train good.csv --plot picture.xyz": "--plot.*name that ends in .*png.*'picture.xyz'",
    "train good.csv --plot no/such.png": "--plot.*the folder no does not exist",
    "train good.csv --checkpoint-every 3": "--checkpoint-every.*needs --checkpoint",
    "train good.csv --checkpoint c --checkpoint-every 1.5": "--checkpoint-every",
    "train good.csv --resume c": "--resume.*cannot be used with DATA",
    "train --resume other.safetensors --lr 0.1": "--resume.*cannot be used with --lr",
    "evaluate": "MODEL",
    "evaluate other.safetensors": "DATA",
    "evaluate other.safetensors good.csv --proba": "No such option.*--proba",
    "predict other.safetensors good.csv": "--out",
    "predict other.safetensors good.csv --out p.txt":
        "expected a name that ends in .csv, .npz, .npy, got 'p.txt'",
    "predict other.safetensors good.csv --out good.csv": "would be overwritten",
    "predict other.safetensors": "DATA",
    "predict": "MODEL",
    "info": "MODEL",
    "info other.safetensors good.csv": "unexpected extra argument",
    "profile a-b": "NET",
    "doctor --yaml": "No such option.*--yaml",
    "doctor now": "unexpected extra argument",
    "warmup now": "unexpected extra argument",
    "bench now": "unexpected extra argument",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_files(tmp_path_factory.mktemp("files"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def assert_refused(folder, arguments, says):
    """Expect exit code 1 and a one-line error, or 2 and the usage; return the code."""
    if arguments[:1] == ["bench"]:
        pytest.importorskip("threadpoolctl")
    if "picture.xyz" in arguments:
        pytest.importorskip("matplotlib")
    before = wrong.files(folder)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    said = " ".join(result.stderr.translate({ord(c): " " for c in "│╭╮╰╯─"}).split())
    case = f"fastbn {arguments}: {said!r}"
    assert isinstance(result.exception, SystemExit), f"{case}: {result.exception!r}"
    assert result.exit_code in (1, 2), case
    if result.exit_code == 1:
        assert result.stderr.startswith("fastbn: error: "), case
        assert result.stderr.count("\n") == 1, case
    assert "Traceback" not in said, case
    assert re.search(says, said), f"{case} does not say {says}"
    assert result.stdout == "", f"{case}: printed {result.stdout!r}"
    assert wrong.files(folder) == before, f"{case}: changed a file"
    return result.exit_code


EACH = [(command, option) for command, (_, options) in OPTIONS.items() for option in options]


@pytest.mark.parametrize(("command", "option"), EACH)
@wrong.examples
@given(data=st.data())
def test_a_wrong_value_of_an_option(folder, command, option, data):
    good, options = OPTIONS[command]
    name = option.removeprefix("--").replace("-", "[-_]")
    says = rf"--{name}|\b{name}\b"
    says += {"--hidden": "|layer_sizes", "--batch": "|batch_size"}.get(option, "")
    rest = good[1:] if option == "--resume" else good
    for kind in options[option]:
        value = kind if isinstance(kind, str) else data.draw(kind, label=option)
        assert_refused(folder, [command, *rest, option, value], f"{says}|{re.escape(value)}: ")


@pytest.mark.parametrize(("line", "place", "names"), FILES)
def test_files_that_cannot_be_read(folder, line, place, names):
    for name in names:
        arguments = line.split()
        arguments[place] = name
        assert_refused(folder, arguments, rf"\b{re.escape(pathlib.Path(name).stem)}\b")


@pytest.mark.parametrize("line", FAILS)
def test_what_fails_says_why_in_one_line(folder, line):
    assert assert_refused(folder, line.split(), FAILS[line]) == 1


@pytest.mark.parametrize("line", MISUSES)
def test_misuse_is_reported_before_anything_is_loaded(folder, line, monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("data were loaded")

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(datasets, "load_features", load)
    assert assert_refused(folder, line.split(), MISUSES[line]) == 2
