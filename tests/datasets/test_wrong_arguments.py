"""Readers of data sets with one wrong argument raise an error that names it or the file."""

from __future__ import annotations

import numpy as np
import pytest
import wrong
from hypothesis import given
from hypothesis import strategies as st
from unreadable import CSV_FILES, FOLDERS, IDX_FILES, NPZ_FILES, write_files
from wrong import COUNT, NONE, PATH, SEED, SHARE, named, of, without

from fastbn import datasets

SPLIT = {"test_size": SHARE | of(0.0, 1.0), "seed": SEED}
TARGET = of("x", 1.5, [2])
OF_CSV = ".*good.csv: target: |target: "

# Functions, the argument that takes a file, and a good one; wrong values of each argument.
READERS = {
    "load_idx": ("path", "good.idx", {
        "path": PATH | named(*IDX_FILES, "nothing", "folder", "text.csv", "text.csv/in")
    }),
    "load_csv": ("path", "good.csv", {
        "path": PATH | named(*CSV_FILES, "nothing.csv", "folder", "good.idx"),
        "target": TARGET | of(3, -4, True, np.nan, np.inf, b"kind", 10**30),
        **SPLIT,
    }),
    "load_npz": ("path", "good.npz", {
        "path": PATH | named(*NPZ_FILES, "nothing.npz", "folder", "text.csv"), **SPLIT
    }),
    "load_digits": (None, None, SPLIT),
    "load_idx_folder": ("path", "good", {"path": PATH | named(*FOLDERS, "nothing", "text.csv")}),
    "load_fashion_mnist": ("path", "good", {
        "path": without(PATH, "None") | named(*FOLDERS, "nothing", "text.csv")
    }),
    "load": ("source", "good.csv", {
        "source": PATH | of("", "mnist") | named("nothing", "good.idx", "folder", "nan.npz"),
        "target": TARGET,
        **SPLIT,
    }),
    "load_features": ("source", "good.csv", {
        "source": PATH
        | named("nothing", "folder", "nan.npz", "flat.npz", "nan.csv", "good.idx", "huge"),
        "n_features": COUNT | NONE,
        "target": TARGET | of(np.inf),
        "feature_names": of(5, "ab", [1, 2], ["a"], ["a", "a"], ["a", "x"]),
    }),
}  # fmt: skip
MORE = {"load_features": {"n_features": 2}}  # other good arguments

# How a message may begin, other than with the name of the argument.
SAYS = {
    ("load_csv", "path"): "path: |two-rows: test_size=0.2",
    ("load", "source"): r"source: |mnist: |\.: expected",
    ("load_features", "feature_names"): "feature_names: |.*good.csv: expected the columns",
    **{(name, "target"): OF_CSV for name in ("load_csv", "load", "load_features")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


EACH = [(name, argument) for name, (_, _, kinds) in READERS.items() for argument in kinds]


@pytest.mark.parametrize(("name", "argument"), EACH)
@wrong.examples
@given(data=st.data())
def test_a_wrong_argument_is_refused(folder, name, argument, data):
    path, file, kinds = READERS[name]
    wrong.assert_refused(
        data,
        getattr(datasets, name),
        lambda: {**({path: folder / file} if path else {}), **MORE.get(name, {})},
        argument,
        kinds[argument],
        says=SAYS.get((name, argument)),
        folder=folder,
    )
