"""CSV files: numbers, headers, targets, and memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fastbn import DataFileError, datasets
from fastbn.datasets.csv_header import LOOK_AHEAD, MAX_COLUMNS
from fastbn.datasets.csv_table import MAX_LABEL


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.csv"


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["1_0", "\u0661\u0662", "1_0.5", "0x10", "1,5", "1e", "--1", "½", "1 0"]
)
def test_cells_that_no_csv_writer_writes_are_not_numbers(path, cell):
    path.write_text(f'a,kind\n1,x\n"{cell}",y\n', encoding="utf-8")
    with pytest.raises(DataFileError, match=r"line 3, column 'a': expected a number, got '"):
        datasets.load_csv(path)


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "1e999"])
def test_what_is_not_finite_is_refused(path, cell):
    path.write_text(f"a,kind\n1,x\n{cell},y\n")
    with pytest.raises(DataFileError, match="line 3, column 'a': expected a finite number, got"):
        datasets.load_csv(path)


def test_numbers_as_csv_writers_write_them(path):
    cells = ["1", " 2.5 ", "+3", "-4.", ".5", "1e-3", "1E+2", '"6"', "\u00a07", "-0"]
    path.write_text("a,kind\n" + "".join(f"{c},x_{i % 2}\n" for i, c in enumerate(cells)))
    X, y = datasets.load_features(path, n_features=1)
    assert X[:, 0].tolist() == [1, 2.5, 3, -4, 0.5, 0.001, 100, 6, 7, 0]
    assert X.flags.writeable
    assert y.tolist() == ["x_0", "x_1"] * 5


CLASS_NAMES = [  # lines, target, names of the classes
    (["10,0.5,x", "11,0.5,y"], None, ["x", "y"]),
    (["x,1,0.5", "y,2,0.5"], 0, ["x", "y"]),
    (["-10, 5, 0.5", "0, 6, 0.5", "10, 7, 0.5"], "0", ["-10", "0", "10"]),  # sorted as numbers
    (["x,code", "1,00501", "2,01501"], None, ["00501", "01501"]),
    (["id,x", "9007199254740992,1", "9007199254740993,2", "7,3"], "id",
     ["7", "9007199254740992", "9007199254740993"]),
    (["id,x", "1e30,1", "5,2"], "id", ["1e30", "5"]),
    (["1,0,z", "5,x,1", "6,y,2"], 1, ["x", "y"]),  # by number
    (["1,0,z", "5,x,1", "6,y,2"], "0", ["x", "y"]),  # by name
    (["a,b", "1,1_0", "2,2_0"], None, ["1_0", "2_0"]),
    (["a,b", "1,\u0661", "2,\u0662"], None, ["\u0661", "\u0662"]),
    (["a,b", "1,0x1", "2,0x2"], None, ["0x1", "0x2"]),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "target", "names"), CLASS_NAMES)
def test_names_of_classes(path, lines, target, names):
    header = lines[: len(lines) - len(names)]
    path.write_text("\n".join([*header, *lines[len(header) :] * 10]), encoding="utf-8")
    data = datasets.load_csv(path, target, test_size=0.5)
    assert data.class_names == tuple(names)
    assert len(data.X_train) == len(data.X_test) == 5 * len(names)
    assert data.X_train.shape[1] == data.X_test.shape[1] == lines[0].count(",")
    for y in (data.y_train, data.y_test):
        assert y.dtype == np.int64
        assert set(y) == set(range(len(names)))
    assert (data.feature_names is None) == (data.target_name is None) == (not header)


def test_many_rows(path):
    """The labels are in the middle, and the last row has a bad cell."""
    n = 65_546
    rows = [f"{i},{'ab'[i % 2]},{-i}" for i in range(n)]
    path.write_text("x,kind,z\n" + "\n".join(rows))
    X, y = datasets.load_features(path, n_features=2, target="kind")
    np.testing.assert_array_equal(X, np.stack([np.arange(n), -np.arange(n)], axis=1))
    np.testing.assert_array_equal(y, np.array(["a", "b"])[np.arange(n) % 2])
    path.write_text("x,kind,z\n" + "\n".join([*rows, "1,a,?"]))
    with pytest.raises(DataFileError, match=rf"line {n + 2}, column 'z': expected a number"):
        datasets.load_features(path, n_features=2, target="kind")


# -- with and without a header ---------------------------------------------------------------------


def test_a_header_is_seen_by_a_number_some_rows_below(path):
    path.write_text("a,kind\n" + "?,x\n" * (LOOK_AHEAD - 1) + "1,y\n")
    with pytest.raises(DataFileError, match=r"line 2, column 'a': expected a number, got '\?'"):
        datasets.load_csv(path)


def test_names_of_the_model_are_a_header_even_if_they_are_numbers(path):
    path.write_text("2019,2020\n1,2\n3,4\n")
    X, _ = datasets.load_features(path, n_features=2)
    assert len(X) == 3
    X, _ = datasets.load_features(path, n_features=2, feature_names=["2020", "2019"])
    assert X.tolist() == [[2, 1], [4, 3]]


HEADERS = [  # columns of an array as pandas writes them, and years
    ("0,1,2,3", "0.5,1,2,{}", "ab"),
    ("0,1,2,3", "0.5,1,2,{}", "01"),
    ("0,1,2,3", "5,1,2,{}", "23"),  # whole numbers, and a label with the name of the column
    ("0,1", "0.5,{}", "01"),
    ("0,1,kind", "5,0.5,{}", "ab"),
    ("2019,2020,2021,class", "5,6,7,{}", ["yes", "no"]),
    ("class,2019,2020", "{},6,7", ["yes", "no"]),
]


@pytest.mark.parametrize(("header", "row", "labels"), HEADERS)
def test_a_header_of_numbers(path, header, row, labels):
    rows = [row.format(labels[i % 2]) for i in range(20)]
    path.write_text("\n".join([header, *rows]))
    target = 0 if header.startswith("class") else None
    data = datasets.load_csv(path, target)
    assert len(data.X_train) + len(data.X_test) == 20
    assert [*data.feature_names, data.target_name] == (
        ["2019", "2020", "class"] if target == 0 else header.split(",")
    )
    assert data.class_names == tuple(sorted(labels))


SAMPLES = [
    ["0,1", "1,0", "2,1", "3,0"],
    ["0,1,2", "1,0,1", "0,1,2", "3,5,1"],  # the first line is repeated
    ["1,2,3", "1,0,1", "0,1,2", "3,5,3"],
    ["2,2,no", "5,6,yes", "7,8,yes", "1,0,maybe"],  # two columns never have the same name
    ["2.5,3,no", "5,6,yes", "7,8,yes", "1,0,maybe"],
    ["2,3,no", "5,6,yes", "7,8,no", "1,0,yes"],
    ["2,3,a", "5,6,b", "7,8,c", "1,0,d"],
]


@pytest.mark.parametrize("lines", SAMPLES)
def test_a_first_line_that_is_a_sample(path, lines):
    path.write_text("\n".join(lines))
    X, y = datasets.load_features(path, n_features=lines[0].count(","))
    assert len(X) == len(y) == 4


def test_numbers_are_a_header_only_if_the_model_has_such_names(path):
    path.write_text("2,3,no\n5,6,yes\n7,8,yes\n")
    X, _ = datasets.load_features(path, n_features=2, feature_names=["a", "b"], target=2)
    assert X.tolist() == [[2, 3], [5, 6], [7, 8]]
    with pytest.raises(DataFileError, match=r"none called '4'; the file has '2', '3', 'no'$"):
        datasets.load_features(path, n_features=2, feature_names=["2", "4"], target=2)


def test_byte_order_marks_and_spaces_are_stripped_from_names(path):
    path.write_bytes(b"\xef\xbb\xbf age , dose,kind \r\n" + b"1,2,x\r\n3,4,y\r\n" * 3)
    data = datasets.load_csv(path, " kind ")
    assert data.feature_names == ("age", "dose")
    assert data.target_name == "kind"


def test_a_header_and_names(path):
    rows = "".join(f"{i},{-i / 2},{'rose' if i % 2 else 'aster'}\n" for i in range(20))
    path.write_text("length,width,kind\n" + rows)
    data = datasets.load(path)
    assert data.class_names == ("aster", "rose")
    assert data.name == "t"
    assert (data.feature_names, data.target_name) == (("length", "width"), "kind")
    assert np.array_equal(data.X_train[:, 0] % 2, data.y_train)
    by_name = datasets.load_csv(path, "kind", test_size=0.5)
    by_number = datasets.load_csv(path, 2, test_size=0.5)
    assert np.array_equal(by_name.X_test, by_number.X_test)


REFUSED = [
    ("", "expected rows of numbers, found none"),
    ("a,b\n", "expected rows of numbers, found a header and no rows"),
    ("a;b\n1;x\n", r"t.csv: the first line has no comma; is it separated by ';'\?"),
    ("a\tb\n1\tx\n", r"t.csv: the first line has no comma; is it separated by '\\t'\?"),
    ("a,b\n1,x\n2,y,3\n", "line 3: expected 2 columns, found 3"),
    ("a,b\n1,x\n\n2\n", "line 4: expected 2 columns, found 1"),
    ("a,b\n1,x\nhello,y\n", r"line 3, column 'a': expected a number, got 'hello'"),
    ("a,b\n1,x\n,y\n", r"line 3, column 'a': expected a number, got ''"),
    ("a,b\n1,x\n2,\n", r"line 3, column 'b': expected a label, got an empty cell"),
    ("a,b\n1,1\n2,nan\n", r"line 3, column 'b': expected a finite number, got 'nan'"),
    ("a,b\n1,x\n2,x\n", "at least two classes"),
    ("b\nx\ny\n", "expected features beside the target"),
    ('a,b\n"1,x\n', "cannot be read as CSV"),
    ("a,b\n1,x\n2,y\n", "leaves no test samples"),
    ("a,grün\n1,x\n".encode("latin-1"), "t.csv: cannot be read as CSV: save it as UTF-8"),
    ("a,b\n1,x\n".encode("utf-16"), "t.csv: cannot be read as CSV: save it as UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_refused(path, text, message):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataFileError, match=message):
        datasets.load(path)


# -- the target ------------------------------------------------------------------------------------


def test_several_targets(path):
    path.write_text("x,a,b\n" + "0.5,0,1\n1.5,1,0\n" * 3)
    for target in ("a,b", "a, b", "1,2"):
        with pytest.raises(DataFileError, match="target: expected one column, got 'a|1', "):
            datasets.load_csv(path, target)
    with pytest.raises(DataFileError, match=r"target: expected one of .* got 'a,c'"):
        datasets.load_csv(path, "a,c")
    path.write_text('x,"a,b"\n' + "0.5,0\n1.5,1\n" * 5)
    assert datasets.load_csv(path, "a,b").target_name == "a,b"


@pytest.mark.parametrize("target", ["weight", 3, -4])
def test_a_target_that_is_not_there(path, target):
    path.write_text("a,b,c\n1,2,x\n")
    with pytest.raises(DataFileError, match=r"target: expected one of \['a', 'b', 'c'\], got"):
        datasets.load_csv(path, target)


def test_a_target_whose_name_two_columns_have(path):
    path.write_text("x,kind,kind\n" + "0.5,0,1\n1.5,1,0\n" * 5)
    with pytest.raises(DataFileError, match="target: expected the name of one column, got 'kind'"):
        datasets.load_csv(path, "kind")
    assert datasets.load_csv(path, 1).feature_names == ("x", "kind")


def test_the_names_of_a_wide_file_are_not_all_listed(path):
    path.write_text(",".join(f"c{i}" for i in range(1000)) + "\n" + ",".join(["1"] * 1000) + "\n")
    with pytest.raises(DataFileError, match=r"expected one of 'c0', .*and 990 more, got 'kind'$"):
        datasets.load_csv(path, "kind")


REGRESSION = [
    [f"{i}.5" for i in range(50)],
    [str(i % 3 / 2) for i in range(50)],  # 0, 0.5 and 1
    [str(7 * i) for i in range(50)],  # all different
    [str(7 * (i % 25)) for i in range(74)],  # fewer than three of each
    [f"{7 * i}.0" for i in range(50)],
    [str(i % 101) for i in range(1010)],  # counts, ten samples of each
    [f"{i % 815}.0" for i in range(8000)],
]


@pytest.mark.parametrize("cells", REGRESSION)
def test_a_target_that_looks_like_regression(path, cells):
    path.write_text("x,y\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    with pytest.raises(
        DataFileError, match=r"t.csv: y: .*regression.*squared_error.*names"
    ) as info:
        datasets.load_csv(path)
    assert "float64" not in str(info.value)
    X, y = datasets.load_features(path, n_features=1)
    assert len(X) == len(y) == len(cells)
    assert y.tolist() == list(map(float, cells))


CLASSES = [
    [str(i % 10) for i in range(30)],  # digits
    [str(i % 100) for i in range(300)],  # many classes, three of each
    [str(10 * (i % 25)) for i in range(75)],  # with gaps
    [str(i % 20) for i in range(40)],  # few classes, two of each
    [f"{i % 2}.0" for i in range(30)],
    [f"c{i % 30}" for i in range(80)],  # names are always classes
    [f"0{i % 30:02}" for i in range(80)],  # as are numbers that begin with a zero
    [f"c{i % 815}" for i in range(2500)],
    [f"{i % 815:05}" for i in range(2500)],
]


@pytest.mark.parametrize("cells", CLASSES)
def test_a_target_of_classes(path, cells):
    path.write_text("x,y\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    assert len(datasets.load_csv(path, test_size=0.5).class_names) == len(set(cells))


# -- memory ----------------------------------------------------------------------------------------

TOO_WIDE = [
    ("," * MAX_COLUMNS, "line 1: expected at most 1,048,576 columns, found 1,048,577"),
    (
        "1,2\n" + "," * 2 * MAX_COLUMNS,
        "line 2: expected at most 1,048,576 columns, found 2,097,153",
    ),
    (',,"\n",' * (MAX_COLUMNS // 3 + 1), "expected at most 1,048,576 columns, found 1,048,579"),
    ('"' * MAX_COLUMNS, "cannot be read as CSV: field larger than field limit"),
    (" " * MAX_COLUMNS, "cannot be read as CSV: field larger than field limit"),
    ("1," * 200_000, "line 1, column '200000': expected a label, got an empty cell"),
    ("," * 200_000, "line 1, column '200000': expected a label, got an empty cell"),
    (f"1,{'a' * (MAX_LABEL + 1)}", "column '1': expected a label, got 257 characters"),
    ("\n" * 100_000, "expected rows of numbers, found none"),
]


@pytest.mark.parametrize(("text", "message"), TOO_WIDE)
def test_a_file_that_is_no_table_is_refused_early(path, text, message):
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(DataFileError, match=message):
            datasets.load_csv(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * MAX_COLUMNS


def test_a_line_without_end_is_not_read_whole(path, monkeypatch):
    monkeypatch.setattr("fastbn.datasets.csv_header.MAX_LINE", 2 * MAX_COLUMNS)
    path.write_text("1" * (3 * MAX_COLUMNS))
    with pytest.raises(DataFileError, match="line 1: expected fewer than 2,097,152 characters"):
        datasets.load_csv(path)


def test_memory_is_that_of_the_numbers(path):
    """Keeping all cells as strings would take ten times as much."""
    n, k = 20_000, 20
    path.write_text("".join("0.123456," * k + f"{'ab'[i % 2]}\n" for i in range(n)))
    tracemalloc.start()
    try:
        X, _ = datasets.load_features(path, n_features=k)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert X.shape == (n, k)
    assert peak < 4 * X.nbytes
