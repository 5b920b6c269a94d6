"""The command line on a saved model: evaluate, predict, info."""

from __future__ import annotations

import csv
import os
import pathlib
import re

import numpy as np
import pytest
from commands import KINDS, rows, run, samples, succeed, write_csv, write_insects

import fastbn
from fastbn import datasets
from fastbn.cli._saved import class_indices
from fastbn.model import BatchNormMLP

TRAIN = ["--epochs", "10", "--hidden", "8", "--batch-size", "16", "--no-plot", "--quiet"]


@pytest.fixture(autouse=True)
def insects(tmp_path, monkeypatch):
    """Write a CSV to the current folder, and train a model on it."""
    monkeypatch.chdir(tmp_path)
    path = write_insects(tmp_path)
    succeed("train", path, *TRAIN, "--out", "m.safetensors", "--test-size", "0.3")
    return path


@pytest.fixture
def model():
    return BatchNormMLP.load("m.safetensors")


# -- evaluate --------------------------------------------------------------------------------------


def expected_rows(model, name, X, y):
    loss, accuracy = model.evaluate(X, y)
    return {
        "data": f"{name}: {len(y)} samples",
        "accuracy": f"{100 * accuracy:.2f} %",
        "loss": f"{loss:.4f}",
    }


def test_evaluate_takes_the_test_part_of_the_training(model, insects):
    data = datasets.load(str(insects), test_size=0.3)
    assert rows(succeed("evaluate", "m.safetensors", insects)) == expected_rows(
        model, "insects", data.X_test, data.y_test
    )


def test_evaluate_all_takes_every_sample(model, insects):
    assert rows(succeed("evaluate", "m.safetensors", insects, "--all")) == expected_rows(
        model, "insects", *samples()
    )


def test_labels_are_matched_by_name_not_by_their_order(model, tmp_path):
    """By position, a file that lacks the first class would get other numbers."""
    X, y = samples()
    kept = y > 0
    path = write_csv(tmp_path / "some.csv", X[kept], np.array(KINDS)[y[kept]])
    expected = expected_rows(model, "some", X[kept], y[kept])
    assert rows(succeed("evaluate", "m.safetensors", path, "--all")) == expected
    assert float(expected["accuracy"].split()[0]) > 90
    assert float(rows(succeed("evaluate", "m.safetensors", path))["accuracy"].split()[0]) > 90


@pytest.mark.parametrize("ending", ["csv", "npz"])
@pytest.mark.parametrize("n", [1, 20])
def test_evaluate_of_one_class(model, tmp_path, ending, n):
    """This includes a single sample, which cannot be split."""
    X, y = samples()
    X = X[y == 2][:n]
    path, labels = tmp_path / f"moths.{ending}", ["moth"] * n
    if ending == "csv":
        write_csv(path, X, labels)
    else:
        np.savez(path, X=X, y=np.array(labels))
    whole = expected_rows(model, "moths", X, np.full(n, 2))
    assert rows(succeed("evaluate", "m.safetensors", path, "--all")) == whole
    result = run("evaluate", "m.safetensors", path)
    assert result.exit_code == 0
    if n < 20:
        assert rows(result.stdout) == whole
        assert f"{path}: too few samples to split off a test part, so all are used" in result.stderr
    else:
        assert rows(result.stdout)["data"] == "moths: 6 samples"


def test_evaluate_takes_many_numbers_that_are_classes(tmp_path):
    """The file has more classes than `train` would accept."""
    X, y = np.arange(150.0)[:, None], np.arange(150)
    model = BatchNormMLP((1, 150))
    model.metadata = {"class_names": [str(name) for name in y]}
    model.save("many.safetensors")
    np.savez("many.npz", X_train=X, y_train=y, X_test=X, y_test=y)
    table = rows(succeed("evaluate", "many.safetensors", "many.npz"))
    assert table == expected_rows(model, "many", X, y)


def test_evaluate_all_of_data_that_are_split(tmp_path):
    X, y = samples()
    np.savez("split.npz", X_train=X[:40], y_train=y[:40], X_test=X[40:], y_test=y[40:])
    succeed("train", "split.npz", *TRAIN, "--out", "split.safetensors")
    model = BatchNormMLP.load("split.safetensors")
    part, whole = (
        rows(succeed("evaluate", "split.safetensors", "split.npz", *options))
        for options in ([], ["--all"])
    )
    assert part == expected_rows(model, "split", X[40:], y[40:])
    assert whole == expected_rows(model, "split", X, y)


def test_labels_the_model_does_not_know_are_named(tmp_path):
    X, y = samples()
    path = write_csv(tmp_path / "new.csv", X, np.array(["ant", "wasp", "moth"])[y])
    result = run("evaluate", "m.safetensors", path, "--all")
    assert result.exit_code == 1
    assert result.stderr == (
        f"fastbn: error: {path}: labels: expected classes of the model (ant, bee, moth), got wasp\n"
    )


def test_whole_numbers_match_however_they_are_stored():
    for labels in (np.array([3.0, 1.0]), np.array([3, 1]), np.array(["3", "1"])):
        assert class_indices(labels, ["1", "3"]).tolist() == [1, 0]


# -- predict ---------------------------------------------------------------------------------------


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predict_writes_names_of_classes_in_the_order_of_the_data(model, insects, tmp_path):
    X, _ = samples()
    output = succeed("predict", "m.safetensors", insects, "--out", "p.csv")
    assert output == "p.csv: 60 predictions\n"
    assert read("p.csv") == [["label"], *([KINDS[k]] for k in model.predict(X))]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "insects.csv", "m.safetensors", "p.csv",
    ]  # fmt: skip


def test_predict_writes_probabilities(model, insects):
    X, _ = samples()
    succeed("predict", "m.safetensors", insects, "--out", "p.csv", "--proba")
    header, *lines = read("p.csv")
    assert header == ["label", "p_ant", "p_bee", "p_moth"]
    values = np.array([line[1:] for line in lines], float)
    np.testing.assert_allclose(values, model.predict_proba(X), rtol=1e-5)


def test_predict_writes_numpy_files(model, insects):
    X, _ = samples()
    labels, probabilities = np.array(KINDS)[model.predict(X)], model.predict_proba(X)
    for name in ("p.npz", "p.npy", "q.npy"):
        options = [] if name == "p.npy" else ["--proba"]
        succeed("predict", "m.safetensors", insects, "--out", name, *options)
    with np.load("p.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["label"], labels)
        np.testing.assert_array_equal(arrays["proba"], probabilities)
        assert arrays["class_names"].tolist() == KINDS
    np.testing.assert_array_equal(np.load("p.npy", allow_pickle=False), labels)
    np.testing.assert_array_equal(np.load("q.npy", allow_pickle=False), probabilities)


@pytest.mark.parametrize("known", [True, False])
def test_predict_leaves_out_the_column_that_was_the_target(tmp_path, known):
    """The model was trained with the labels in the first column, not the last one."""
    X, y = samples()
    labels = np.array(KINDS)[y]
    path = write_csv(tmp_path / "first.csv", X, labels, label_first=True)
    succeed("train", path, *TRAIN, "--target", "kind", "--out", "first.safetensors")
    new = write_csv(tmp_path / "new.csv", X, labels if known else None, label_first=True)
    succeed("predict", "first.safetensors", new, "--out", "p.csv")
    predicted = BatchNormMLP.load("first.safetensors").predict(X)
    assert read("p.csv")[1:] == [[KINDS[k]] for k in predicted]


def test_predict_does_not_guess_which_column_to_leave_out(tmp_path):
    X, y = samples()
    path = write_csv(tmp_path / "first.csv", X, np.array(KINDS)[y], label_first=True)
    succeed("train", path, *TRAIN, "--target", "kind", "--out", "first.safetensors")
    wide = tmp_path / "wide.csv"
    wide.write_text("1,2,3,4,5\n")
    result = run("predict", "first.safetensors", wide, "--out", "p.csv")
    assert result.exit_code == 1
    assert "got 'kind'" in result.stderr
    assert not (tmp_path / "p.csv").exists()


def test_a_failed_write_leaves_the_old_file(insects, tmp_path, monkeypatch):
    (tmp_path / "p.npy").write_text("old")

    def fail(file, array):
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "save", fail)
    result = run("predict", "m.safetensors", insects, "--out", "p.npy")
    assert result.exit_code == 1
    assert result.stderr.endswith("fastbn: error: the disk is full\n")
    assert (tmp_path / "p.npy").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "insects.csv", "m.safetensors", "p.npy",
    ]  # fmt: skip


# -- models of other losses ------------------------------------------------------------------------

OTHERS = {
    "numbers": (3, "squared_error", ("outputs", "3: numbers"), r"numbers \(regression\)"),
    "number": (1, "squared_error", ("outputs", "1: numbers"), r"numbers \(regression\)"),
    "labels": (3, "sigmoid_cross_entropy", ("labels", "3, each yes or no: 0, 1, 2"), "several"),
}


@pytest.mark.parametrize(("outputs", "loss", "row", "what"), OTHERS.values(), ids=OTHERS)
def test_a_model_that_predicts_no_class(insects, tmp_path, outputs, loss, row, what):
    BatchNormMLP((4, outputs), loss=loss).save("other.safetensors")
    table = rows(succeed("info", "other.safetensors"))
    assert table[row[0]] == row[1]
    assert "classes" not in table
    before = sorted(tmp_path.iterdir())
    for command in (["predict", "--out", "p.csv"], ["evaluate"]):
        result = run(command[0], "other.safetensors", insects, *command[1:])
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.search(
            rf"^fastbn: error: other.safetensors: .*one class.*{what}.*'{loss}'.*command line does "
            r"not support yet.*predict and evaluate of BatchNormMLP.load\('other.safetensors'\)",
            result.stderr,
        )
        assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("names", [None, ["no", "yes"]])
def test_one_yes_or_no_output_is_two_classes(tmp_path, names):
    X, y = samples()
    y = (y == 2).astype(int)
    model = BatchNormMLP((4, 8, 1), loss="sigmoid_cross_entropy", lr=0.02, seed=1)
    model.fit(X, y, epochs=10, batch_size=16)
    model.metadata = {"class_names": names}
    model.save("one.safetensors")
    names = names or ["0", "1"]
    path = write_csv(tmp_path / "new.csv", X, np.array(names)[y])
    assert rows(succeed("info", "one.safetensors"))["classes"] == f"2: {', '.join(names)}"
    result = succeed("evaluate", "one.safetensors", path, "--all")
    assert rows(result) == expected_rows(model, "new", X, y)
    succeed("predict", "one.safetensors", path, "--out", "p.csv")
    assert read("p.csv") == [["label"], *([names[k]] for k in model.predict(X)[:, 0])]
    succeed("predict", "one.safetensors", path, "--out", "p.npy", "--proba")
    p = model.predict_proba(X)
    np.testing.assert_array_equal(np.load("p.npy"), np.concatenate([1 - p, p], axis=1))


# -- info ------------------------------------------------------------------------------------------


def test_info_tells_what_a_model_is(model):
    table = rows(succeed("info", "m.safetensors"))
    assert table["parameters"] == "78"
    assert table["trained"] == f"{model.steps} steps, 10 epochs"
    assert table["data"] == "insects"
    assert table["classes"] == "3: ant, bee, moth"
    assert table["written by"] == f"fastbn {fastbn.__version__}"
    assert table["layer 1"] == "4 to 8, batch norm, leaky_relu"
    assert table["layer 2"] == "8 to 3, batch norm, softmax"
    assert set(model.config.to_dict()) - {"layer_sizes"} <= set(table)
    assert (table["betas"], table["max_norm"], table["lr"]) == ("0.9, 0.999", "none", "0.02")


def test_info_keeps_a_name_on_one_line():
    model = BatchNormMLP((2, 2))
    names = ["a\nb", "grün\t\x1b[31m"]
    model.metadata = {"class_names": names, "feature_names": names, "data": "x\ny"}
    model.save("lines.safetensors")
    table = rows(succeed("info", "lines.safetensors"))
    assert table["features"] == table["classes"] == r"2: a\nb, grün\t\x1b[31m"
    assert table["data"] == r"x\ny"


def test_info_and_evaluate_of_a_model_without_metadata(insects):
    BatchNormMLP((4, 3), batch_norm_output=False).save("bare.safetensors")
    table = rows(succeed("info", "bare.safetensors"))
    assert table["data"] == "unknown"
    assert table["classes"] == "3: 0, 1, 2"
    assert table["layer 1"] == "4 to 3, bias, softmax"
    X, y = samples()
    np.savez("numbered.npz", X=X, y=y)
    assert "accuracy" in rows(succeed("evaluate", "bare.safetensors", "numbered.npz"))


@pytest.mark.parametrize("ending", ["csv", "npz", "npy"])
def test_predictions_replace_the_old_file(ending):
    """A hard link to the old file keeps its contents."""
    pathlib.Path(f"p.{ending}").write_text("old")
    os.link(f"p.{ending}", "other")
    succeed("predict", "m.safetensors", "insects.csv", "--out", f"p.{ending}")
    assert pathlib.Path("other").read_text() == "old"
