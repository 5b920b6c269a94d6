"""Wrong command lines: one line that names the option or the file, and no file changed."""

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

from fastbn.cli._app import app

# Wrong values: words, and what hypothesis draws beside them.
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
            "--threads": THREADS,
            "--random": ("fast", "-1", "1.5"),
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

# Commands, and files that they cannot read in the place of an argument, which is the number.
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

# Whole command lines, and what the message has to say.
LINES = {
    "trian": "No such command 'trian'",
    "train --epoch 3": "No such option.*--epoch",
    "train good.csv text.csv": "unexpected extra argument",
    "train good.csv --progress --quiet": "--progress.*excludes --quiet",
    "train good.csv --no-plot --plot p.png": "--plot.*excludes --no-plot",
    "train good.csv --checkpoint-every 3": "--checkpoint-every.*needs --checkpoint",
    "train good.csv --checkpoint c --checkpoint-every 0": "checkpoint.every",
    "train good.csv --checkpoint c --checkpoint-every 1.5": "--checkpoint-every",
    "train good.csv --out m --checkpoint m": "--checkpoint.*the model's file",
    "train good.csv --out m.png --plot m.png": "--plot.*the model's file",
    "train good.csv --plot picture.xyz": "--plot.*expected an ending",
    "train good.csv --plot no/such.png": "--plot.*the folder no does not exist",
    "train good.csv --resume c": "--resume.*excludes DATA",
    "train --resume other.safetensors --lr 0.1": "--resume.*excludes --lr",
    "evaluate": "MODEL",
    "evaluate other.safetensors": "DATA",
    "evaluate other.safetensors good.csv --all --target x": "target",
    "evaluate other.safetensors good.csv --proba": "No such option.*--proba",
    "predict other.safetensors good.csv": "--out",
    "predict other.safetensors": "DATA",
    "predict": "MODEL",
    "info": "MODEL",
    "info other.safetensors good.csv": "unexpected extra argument",
    "profile a-b": "NET",
    "profile 4": "layer_sizes",
    "profile 4-0": r"layer_sizes\[1\]",
    "doctor --yaml": "No such option.*--yaml",
    "doctor now": "unexpected extra argument",
    "warmup now": "unexpected extra argument",
    "bench now": "unexpected extra argument",
    "--nonsense": "No such option.*--nonsense",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_files(tmp_path_factory.mktemp("files"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def assert_refused(folder, arguments, says):
    """Exit code 1 and one line, or 2 and how the command is used."""
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
    assert result.exit_code == 2 or result.stderr.count("\n") == 1, case
    assert "Traceback" not in said, case
    assert re.search(says, said), f"{case} does not say {says}"
    assert result.stdout == "", f"{case}: printed {result.stdout!r}"
    assert wrong.files(folder) == before, f"{case}: changed a file"


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


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line(folder, line):
    assert_refused(folder, line.split(), LINES[line])
