"""Wrong calls of the command line."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
from collections.abc import Iterator

from wrong_files import CSV_FILES, MODEL_FILES, NPZ_FILES
from wrong_subject import Row, files, first

NUMBER = ("fast", "", "nan", "inf", "-1")
SHARE = (*NUMBER, "1.5")
COUNT = ("fast", "", "1.5", "-1", "0")
CHOICE = ("nonsense", "", "ADAM ")
PLACE = ("no/such", "folder", "text.csv/in", "good.csv")
PICTURE = ("no/such.png", "folder.png", "picture.xyz", "good.csv")

# Command: good arguments, and bad values of each option; the message has to name the option, or the
# argument that it stands for.
OPTIONS: dict[str, tuple[list[str], dict[str, tuple[str, ...]]]] = {
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
            "--seed": ("fast", "-1", str(2**32)),
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
            "--checkpoint": PLACE,
            "--out": PLACE,
            "--resume": (
                "nothing", "folder", "good.csv", "other.safetensors", *MODEL_FILES,
            ),
        },
    ),
    "evaluate": (
        ["other.safetensors", "good.csv"],
        {"--target": ("x", "9"), "--test-size": SHARE},
    ),
    "predict": (
        ["other.safetensors", "good.csv", "--out", "new.csv"],
        {
            "--target": ("x", "9"),
            "--out": (
                "new.txt", "new", "no/new.csv", "folder", "good.csv", "other.safetensors",
            ),
        },
    ),
    "bench": (
        ["--suite", "step"],
        {
            "--against": ("nonsense", "torch,nonsense"),
            "--suite": CHOICE,
            "--threads": (*COUNT, "1000000"),
            "--random": ("fast", "-1", "1.5"),
            "--json": PLACE[:3],
            "--plot": PICTURE[:3],
        },
    ),
    "profile": (
        ["4-3"],
        {
            "--batch": (*COUNT, "1"),
            "--threads": (*COUNT, "1000000"),
            "--steps": COUNT,
            "--json": PLACE[:3],
            "--plot": PICTURE[:3],
            "--trace": PLACE[:3],
        },
    ),
    "warmup": ([], {"--dtype": CHOICE}),
}  # fmt: skip

# Command, and files that it cannot read in the place of an argument, which is the number.
FILES: list[tuple[list[str], int, tuple[str, ...]]] = [
    (["train", "good.csv"], 1, ("nothing", "folder", "nothing.csv", *CSV_FILES, *NPZ_FILES)),
    (["evaluate", "other.safetensors", "good.csv"], 1, ("nothing", "folder", *MODEL_FILES)),
    (
        ["evaluate", "other.safetensors", "good.csv"],
        2,
        ("nothing", "nan.csv", "ragged.csv", "nan.npz", "cut.npz", "three", "one-column.csv"),
    ),
    (
        ["predict", "other.safetensors", "good.csv", "--out", "new.csv"],
        1,
        ("nothing", "folder", *MODEL_FILES),
    ),
    (
        ["predict", "other.safetensors", "good.csv", "--out", "new.csv"],
        2,
        ("nothing", "nan.csv", "latin.csv", "pickled.npz", "three", "huge", "one-column.csv"),
    ),
    (["info", "other.safetensors"], 1, ("nothing", "folder", "good.csv", *MODEL_FILES)),
    (["profile", "4-3"], 1, ("nothing", "folder", "good.csv", *MODEL_FILES)),
]  # fmt: skip

# Whole command lines, and what the message has to say.
LINES: dict[str, str] = {
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


@contextlib.contextmanager
def inside(folder: pathlib.Path) -> Iterator[None]:
    """Context in which a folder is the current one."""
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def unwrapped(text: str) -> str:
    """Return what stands in a box, on one line."""
    return " ".join(text.translate({ord(c): " " for c in "│╭╮╰╯─"}).split())


def check(arguments: list[str], says: str, folder: pathlib.Path) -> str:
    """Run a command: exit code 1 and one line, or 2 and how it is used."""
    from typer.testing import CliRunner

    from fastbn.cli._app import app

    name = f"fastbn {' '.join(arguments)}"
    with inside(folder):
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    said = unwrapped(result.stderr)
    assert isinstance(result.exception, SystemExit), f"{name}: {result.exception!r}"
    assert result.exit_code in (1, 2), f"{name}: exit code {result.exit_code}"
    assert result.exit_code == 2 or result.stderr.count("\n") == 1, f"{name}: {result.stderr!r}"
    assert "Traceback" not in said, f"{name}: {said}"
    assert re.search(says, said), f"{name}: not named in {said!r}"
    assert result.stdout == "", f"{name}: printed {result.stdout!r}"
    assert files(folder) == first(folder), f"{name}: changed a file"
    return f"exit code {result.exit_code}"


def rows() -> Iterator[Row]:
    """Yield all wrong command lines."""
    lines: list[tuple[list[str], str]] = []
    for command, (good, options) in OPTIONS.items():
        for option, values in options.items():
            argument = option.removeprefix("--").replace("-", "[-_]")
            says = rf"--{argument}|\b{argument}\b"
            rest = good[1:] if option == "--resume" else good
            says += {"--hidden": "|layer_sizes", "--batch": "|batch_size"}.get(option, "")
            for value in values:
                lines.append(([command, *rest, option, value], f"{says}|{re.escape(value)}: "))
    for line, place, names in FILES:
        for name in names:
            says = rf"\b{re.escape(pathlib.Path(name).stem)}\b"
            lines.append(([*line[:place], name, *line[place + 1 :]], says))
    lines.extend((line.split(), says) for line, says in LINES.items())
    for arguments, says in lines:
        needs = ("typer", "rich", *(("matplotlib",) if "picture.xyz" in arguments else ()))
        needs += ("threadpoolctl",) if arguments[0] == "bench" else ()
        yield Row(f"fastbn {' '.join(arguments)}", functools.partial(check, arguments, says), needs)


ROWS = list(rows())
