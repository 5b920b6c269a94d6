"""CSV files on the command line: columns matched by name, and targets that are not classes."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from commands import KINDS, QUICK, rows, run, samples, succeed

from fastbn.files import tensor_file
from fastbn.fit import progress
from fastbn.model import BatchNormMLP

NAMES = ["length", "width", "weight", "age"]
TRAIN = ["--epochs", "10", "--hidden", "8", "--batch-size", "16", "--no-plot", "--quiet"]

NO_HEADER = "fastbn: {}: no header, so columns are taken in the model's order\n"
NO_NAMES = "fastbn: {}: the model has no names of columns, so they are taken in the file's order\n"


def write(path, columns, *, header=True):
    """Write a CSV with these columns, in this order."""
    lines = [list(columns)] if header else []
    lines += zip(*columns.values(), strict=True)
    pathlib.Path(path).write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


@pytest.fixture(autouse=True)
def insects(tmp_path, monkeypatch):
    """Return the columns of a data set, and models trained on it with and without names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "_announced", True)  # no note about compiling
    X, y = samples()
    columns = {**dict(zip(NAMES, X.T.tolist(), strict=True)), "kind": np.array(KINDS)[y].tolist()}
    for header in (True, False):
        path = "named.csv" if header else "plain.csv"
        write(path, columns, header=header)
        succeed("train", path, *TRAIN, "--out", path.replace("csv", "safetensors"))
    return columns


def expected(model="named"):
    """Return the labels that a model predicts for its training samples."""
    X, _ = samples()
    return [KINDS[k] for k in BatchNormMLP.load(f"{model}.safetensors").predict(X)]


def predicted(*arguments, model="named", notes=""):
    """Return the labels that `fastbn predict` writes; it prints only these notes on stderr."""
    result = run("predict", f"{model}.safetensors", *arguments, "--out", "p.csv")
    assert result.exit_code == 0, result.output
    assert result.stderr == notes
    header, *labels = pathlib.Path("p.csv").read_text().splitlines()
    assert header == "label"
    return labels


def refused(*arguments):
    """Return the one-line error; nothing may be written."""
    before = {path: path.read_bytes() for path in pathlib.Path().iterdir()}
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in pathlib.Path().iterdir()} == before
    return result.stderr


# -- predict ---------------------------------------------------------------------------------------


def pick(columns, *names):
    return {name: columns[name] for name in names}


ORDERS = [
    NAMES,
    NAMES[::-1],
    [*NAMES, "kind"],
    ["kind", *NAMES[::-1]],
    ["age", "kind", "weight", "width", "length"],
]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_columns_are_matched_by_name(insects, order):
    write("new.csv", pick(insects, *order))
    assert predicted("new.csv") == expected()


def test_other_columns_are_named_and_ignored(insects):
    """They may contain words or gaps, or have the same name."""
    other = {"id": range(60), "note": ["", "two words"] * 30, **insects}
    write("new.csv", other)
    note = "fastbn: new.csv: ignoring columns that the model lacks: 'id', 'note'\n"
    assert predicted("new.csv", notes=note) == expected()
    text = pathlib.Path("new.csv").read_text().replace("note", "id", 1)
    pathlib.Path("new.csv").write_text(text)
    assert predicted("new.csv", notes=note.replace("note'", "id'")) == expected()


def test_a_column_to_leave_out_that_has_another_name(insects):
    write("new.csv", {"truth": insects["kind"], **pick(insects, *NAMES)})
    assert predicted("new.csv", "--target", "truth") == expected()


def test_a_target_that_is_a_feature(insects):
    write("new.csv", insects)
    arguments = ["named.safetensors", "new.csv", "--target", "age"]
    for command in (["predict", *arguments, "--out", "q.csv"], ["evaluate", *arguments]):
        assert "target: expected a column that is not a feature of the model, got 'age'" in refused(
            *command
        )


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_missing_columns_are_named(insects, command):
    write("new.csv", pick(insects, "age", "length", "kind"))
    out = ["--out", "q.csv"] if command == "predict" else []
    stderr = refused(command, "named.safetensors", "new.csv", *out)
    assert stderr == (
        "fastbn: error: new.csv: expected the columns 'length', 'width', 'weight', 'age', "
        "found none called 'width', 'weight'; the file has 'age', 'length', 'kind'\n"
    )


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_name_that_two_columns_have(insects, command):
    write("new.csv", {**insects, "more": range(60)})
    text = pathlib.Path("new.csv").read_text().replace("more", "age", 1)
    pathlib.Path("new.csv").write_text(text)
    out = ["--out", "q.csv"] if command == "predict" else []
    stderr = refused(command, "named.safetensors", "new.csv", *out)
    assert "new.csv: expected columns of different names, found 2 called 'age'" in stderr
    stderr = refused("train", "new.csv", *QUICK, "--target", "kind")
    assert "new.csv: expected columns of different names, found 2 called 'age'" in stderr


def test_names_with_spaces_quotes_and_a_byte_order_mark(insects):
    write("new.csv", pick(insects, *NAMES[::-1]))
    lines = pathlib.Path("new.csv").read_text().splitlines(keepends=True)
    lines[0] = '\ufeff" age ", weight ,"width",length\n'
    pathlib.Path("new.csv").write_text("".join(lines), encoding="utf-8")
    assert predicted("new.csv") == expected()


def test_names_that_are_numbers(insects):
    """pandas writes such a header for a frame without names; without labels it has only numbers."""
    values = [insects[name] for name in NAMES]
    write("numbers.csv", {**{str(i): v for i, v in enumerate(values)}, "kind": insects["kind"]})
    succeed("train", "numbers.csv", *TRAIN, "--out", "numbers.safetensors")
    write("new.csv", {str(i): values[i] for i in (3, 1, 0, 2)})
    assert predicted("new.csv", model="numbers") == expected("numbers")


@pytest.mark.parametrize("known", [True, False])
def test_without_a_header_columns_go_by_position(insects, known):
    columns = pick(insects, *NAMES, *["kind"] * known)
    write("new.csv", columns, header=False)
    assert predicted("new.csv", notes=NO_HEADER.format("new.csv")) == expected()
    assert predicted("new.csv", model="plain") == expected("plain")
    write("new.csv", columns)
    note = NO_NAMES.format("new.csv")
    assert predicted("new.csv", model="plain", notes=note) == expected("plain")


def test_a_header_and_no_rows(insects):
    pathlib.Path("empty.csv").write_text(",".join([*NAMES, "kind"]) + "\n")
    pathlib.Path("counted.csv").write_text("0,1,kind\n")
    for arguments in (
        ["evaluate", "named.safetensors", "empty.csv"],
        ["evaluate", "named.safetensors", "empty.csv", "--all"],
        ["train", "empty.csv", *QUICK],
        ["train", "counted.csv", *QUICK],
    ):
        assert "expected rows of numbers, found a header and no rows" in refused(*arguments)


def test_a_first_line_that_may_be_a_header_is_named(insects):
    """It consists of whole numbers that all differ."""
    lines = ["1,2,3,4,ant"] + ["0.5,2,2,2,bee", "3,2,2,2.5,ant"] * 10
    pathlib.Path("new.csv").write_text("\n".join(lines))
    note = "fastbn: new.csv: the first line, 1,2,3,4,ant, was taken as a sample\n"
    trained = run("train", "new.csv", *QUICK, "--no-plot", "--out", "m")
    assert trained.stderr == note.replace("new.csv", str(pathlib.Path("new.csv").absolute()))
    assert run("evaluate", "m", "new.csv", "--all").stderr == note
    assert len(predicted("new.csv", model="plain", notes=note)) == 21


def test_without_a_header_the_count_has_to_fit(insects):
    write("new.csv", {"id": range(60), **insects}, header=False)
    for model in ("named", "plain"):
        stderr = refused("predict", f"{model}.safetensors", "new.csv", "--out", "q.csv")
        assert "new.csv: expected 4 features, found 6 columns, 0 of them labels" in stderr
        stderr = refused("evaluate", f"{model}.safetensors", "new.csv")
        assert "new.csv: expected 4 features, found 5" in stderr


@pytest.mark.parametrize("names", [None, "abc", [1, 2, 3, 4], ["a"], ["a", "a", "b", "c"]])
def test_a_model_whose_names_cannot_be_used(insects, names):
    model = BatchNormMLP.load("named.safetensors")
    model.metadata["feature_names"] = names
    model.save("strange.safetensors")
    write("new.csv", pick(insects, *NAMES))
    assert predicted("new.csv", model="strange", notes=NO_NAMES.format("new.csv")) == expected()
    assert rows(succeed("info", "strange.safetensors"))["features"] == "4: without names"


def test_other_files_go_by_position(insects):
    X, y = samples()
    np.savez("new.npz", X=X, y=np.array(KINDS)[y])
    assert predicted("new.npz") == expected()


# -- evaluate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--all"], ["--test-size", "0.5"]])
def test_evaluate_takes_columns_by_name(insects, options):
    """The labels, too: they are not in the last column here."""
    same = run("evaluate", "named.safetensors", "named.csv", *options)
    (pathlib.Path("elsewhere")).mkdir()
    write("elsewhere/named.csv", {"id": range(60), **pick(insects, *ORDERS[3]), "x": range(60)})
    moved = run("evaluate", "named.safetensors", "elsewhere/named.csv", *options)
    assert same.exit_code == moved.exit_code == 0
    assert moved.stdout == same.stdout
    assert same.stderr == ""
    note = "fastbn: elsewhere/named.csv: ignoring columns that the model lacks: 'id', 'x'\n"
    assert moved.stderr == note


def test_evaluate_takes_labels_of_another_name(insects):
    write("new.csv", {"truth": insects["kind"], **pick(insects, *NAMES)})
    same, other = (
        rows(succeed("evaluate", "named.safetensors", *options, "--all"))
        for options in (["named.csv"], ["new.csv", "--target", "truth"])
    )
    assert other["accuracy"] == same["accuracy"]
    stderr = refused("evaluate", "named.safetensors", "new.csv")
    assert "new.csv: expected labels in the column 'kind', as in training, found no" in stderr


def test_evaluate_by_position_says_so(insects):
    for model, path, note in (("named", "plain", NO_HEADER), ("plain", "named", NO_NAMES)):
        result = run("evaluate", f"{model}.safetensors", f"{path}.csv")
        assert result.exit_code == 0
        assert result.stderr == note.format(f"{path}.csv")


# -- names in the model ----------------------------------------------------------------------------


def test_names_are_in_the_model_and_its_checkpoint(insects):
    moved = {"kind": insects["kind"], **pick(insects, *NAMES)}
    write("moved.csv", moved)
    arguments = ["moved.csv", *TRAIN, "--target", "kind", "--checkpoint", "c", "--out"]
    succeed("train", *arguments, "one.safetensors")
    succeed("train", "--resume", "c", "--no-plot", "--out", "two.safetensors")
    for path in ("one.safetensors", "c", "two.safetensors"):
        metadata = BatchNormMLP.load(path).metadata
        assert metadata["feature_names"] == NAMES
        assert metadata["target_name"] == "kind"
    assert "feature_names" not in BatchNormMLP.load("plain.safetensors").metadata


def test_info_lists_the_names(insects):
    assert rows(succeed("info", "named.safetensors"))["features"] == (
        "4: length, width, weight, age"
    )
    assert rows(succeed("info", "plain.safetensors"))["features"] == "4: without names"
    write("wide.csv", {**{f"c{i}": range(60) for i in range(30)}, "kind": insects["kind"]})
    succeed("train", "wide.csv", *TRAIN, "--out", "wide.safetensors")
    features = rows(succeed("info", "wide.safetensors"))["features"]
    assert features == f"30: {', '.join(f'c{i}' for i in range(10))} and 20 more"


def test_names_too_long_for_a_model_file(insects, monkeypatch):
    """They are refused before the training."""
    monkeypatch.setattr(tensor_file, "MAX_HEADER", 1 << 20)
    header = ",".join(f'"{name}{"," * 5000}"' for name in "abcd")
    text = pathlib.Path("plain.csv").read_text()
    pathlib.Path("long.csv").write_text(f"{header},kind\n{text}")
    stderr = refused("train", "long.csv", *TRAIN, "--out", "long.safetensors")
    assert "metadata: expected a header of at most 1,048,576 bytes" in stderr


# -- targets of `train` ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "target"),
    [
        ("named.csv", [], "column 'kind', the last one"),
        ("named.csv", ["--target", "kind"], "column 'kind'"),
        ("named.csv", ["--target", "-1"], "column 'kind'"),
        ("plain.csv", [], "column 4, the last one"),
        ("plain.csv", ["--target", "4"], "column 4"),
    ],
)
def test_train_says_which_column_is_the_target(path, options, target):
    assert rows(succeed("train", path, *QUICK, "--no-plot", *options))["target"] == target


def yes_or_no(seed):
    return np.random.default_rng(seed).integers(0, 2, 60).tolist()


@pytest.mark.parametrize("header", [True, False])
def test_several_labels_are_refused_unless_one_is_named(insects, header):
    columns = {**pick(insects, "age", "width"), **{c: yes_or_no(i) for i, c in enumerate("abc")}}
    write("several.csv", columns, header=header)
    labels, last = ("'a', 'b', 'c'", "c") if header else ("'2', '3', '4'", "4")
    stderr = refused("train", "several.csv", *QUICK, "--no-plot")
    assert f"several.csv: the last 3 columns, {labels}, have only 0 and 1" in stderr
    assert f"--target {last} trains on that column" in stderr
    table = rows(succeed("train", "several.csv", *QUICK, "--no-plot", "--target", last))
    assert "4 features, 2 classes" in table["data"]
    stderr = refused("train", "several.csv", *QUICK, "--no-plot", "--target", f"2,3,{last}")
    assert re.search(r"target: expected one column, got '2', '3', .*several labels", stderr)


ONE_LABEL = [
    {"x": range(60), "c": yes_or_no(0)},
    {"x": range(60), "zero": [0] * 60, "c": yes_or_no(0)},  # like the last pixels of images
    {"a": yes_or_no(0), "b": yes_or_no(1), "c": yes_or_no(2)},  # all features are 0 or 1
    {"a": yes_or_no(0), "x": range(60), "c": yes_or_no(2)},
    {"x": range(60), "a": yes_or_no(0), "c": ["no", "yes"] * 30},
]


@pytest.mark.parametrize("columns", ONE_LABEL, ids=range(len(ONE_LABEL)))
def test_one_label_of_two_classes_is_not_several(columns):
    write("one.csv", columns)
    assert "2 classes" in rows(succeed("train", "one.csv", *QUICK, "--no-plot"))["data"]


@pytest.mark.parametrize(
    "values", [[i + 0.5 for i in range(60)], [i % 3 / 2 for i in range(60)], range(60)]
)
def test_a_target_of_numbers_looks_like_regression(insects, values):
    write("numbers.csv", {**pick(insects, *NAMES), "price": values})
    stderr = refused("train", "numbers.csv", *QUICK)
    assert "numbers.csv: price: " in stderr
    assert "this looks like regression, which the command line does not support yet" in stderr
    assert 'BatchNormMLP(loss="squared_error")' in stderr
