"""CSV files: columns of numbers, and one column of labels.

A file is read row by row into arrays; its cells are never all in memory as strings.
"""

from __future__ import annotations

import csv
import math
import operator
import os
import pathlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.csv_columns import Columns, Target, target_column
from fastbn.datasets.csv_header import Header, read_header
from fastbn.datasets.csv_rows import Row, is_number, read_rows, to_number
from fastbn.datasets.dataset import Dataset, split
from fastbn.datasets.labels import check_classes, encode_labels
from fastbn.errors import DataFileError

MAX_LABEL = 256  # characters


def load_csv(
    path: str | os.PathLike[str], target: Target = None, *, test_size: float = 0.2, seed: int = 0
) -> Dataset:
    """Return a CSV file of numbers and one column of labels.

    Parameters
    ----------
    path : path
        Comma-separated, with or without a line of column names, which the data set then carries.
    target : str or int, optional
        Name or number of the column of labels, which are integers or names; the last one if left
        out. Without a header, columns are named by number.
    test_size, seed
        As in `load_digits`.

    Raises
    ------
    DataFileError
        The file is missing, empty, ragged, or holds something else than finite numbers; the message
        names the line and the column. Or the target looks like regression: its cells are numbers
        that are not all whole, or more than 100 different whole numbers, or more than 20 with fewer
        than three samples of each on average. Names, also numbers that begin with a zero, are
        always classes.
    """

    def choose(header: Header) -> Columns:
        label = target_column(header, target)
        features = [column for column in range(len(header.names)) if column != label]
        if not features:
            raise DataFileError(f"{path}: expected features beside the target column, found none")
        return Columns(features, label)

    (_, names, named), (features, label), X, labels = read_csv(path, choose)
    if not len(X):
        raise DataFileError(f"{path}: expected rows of numbers, found a header and no rows")
    target_name = names[cast(int, label)]
    y, class_names = encode_labels(f"{path}: {target_name}", labels.values, labels.codes)
    check_classes(f"{path}: {target_name}", labels.values, y.size)
    data = split(X, y, class_names, pathlib.Path(path).stem, test_size, seed)
    if not named:
        return data
    feature_names = tuple(names[column] for column in features)
    return data._replace(feature_names=feature_names, target_name=target_name)


class Labels(NamedTuple):
    """A column of labels: its distinct cells, what they stand for, and which one each row has.

    `values` are integers where all cells are whole numbers, float64 where all are numbers but not
    all are whole, and otherwise names.
    """

    cells: np.ndarray
    values: np.ndarray
    codes: np.ndarray

    def as_they_stand(self) -> np.ndarray:
        """Return one integer or name per row; numbers that are not whole as they are written."""
        distinct = self.cells if self.values.dtype.kind == "f" else self.values
        return distinct[self.codes]


class Table(NamedTuple):
    """What was read of a file: X (rows, features) float64, and labels, none if none were chosen."""

    header: Header
    columns: Columns
    X: np.ndarray
    labels: Labels


def read_csv(
    path: str | os.PathLike[str],
    choose: Callable[[Header], Columns],
    known: Sequence[str] | None = None,
) -> Table:
    """Return the columns of a CSV file that `choose` takes; features must be finite numbers.

    The first line is a header if it has all names of `known`, or by the rules of `csv_header`.
    """
    target = path_of("path", path)
    try:
        with open(target, newline="", encoding="utf-8-sig") as file:
            header, rows = read_header(target, read_rows(target, file), known)
            return _read(header, choose(header), rows)
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{target}: cannot be read as CSV: save it as UTF-8 ({error})"
        ) from error
    except (OSError, csv.Error) as error:
        raise DataFileError(f"{target}: cannot be read as CSV: {error}") from error


def _read(header: Header, columns: Columns, rows: Iterable[Row]) -> Table:
    features, label = columns
    first, last = features[0], features[-1]
    if list(features) == list(range(first, last + 1)):
        take: Callable[[list[str]], Sequence[str]] = operator.itemgetter(slice(first, last + 1))
    else:
        take = operator.itemgetter(*features)
    numbers, codes = array("d"), array("q")
    known: dict[str, int] = {}  # labels, and the number of each
    lines_of_known: list[int] = []
    for line, row in rows:
        if label is not None:
            cell = row[label].strip()
            code = known.get(cell)
            if code is None:
                if not 0 < len(cell) <= MAX_LABEL:
                    found = f"{len(cell):,} characters" if cell else "an empty cell"
                    raise _unexpected(header, line, label, f"a label, got {found}")
                code = known[cell] = len(known)
                lines_of_known.append(line)
            codes.append(code)
        numbers.extend(_row_numbers(header, line, features, take(row)))
    X = np.frombuffer(numbers, np.float64).reshape(-1, len(features))
    values = np.empty(0, np.int64)
    if label is not None:
        values = _label_values(header, label, list(known), lines_of_known)
    labels = Labels(np.array(list(known), str), values, np.frombuffer(codes, np.int64))
    return Table(header, columns, X, labels)


def _row_numbers(
    header: Header, line: int, features: Sequence[int], cells: Sequence[str]
) -> list[float]:
    """Return the cells of a row as finite numbers."""
    text = "".join(cells)
    if text.isascii() and "_" not in text:
        try:
            values = list(map(float, cells))
        except ValueError:
            pass
        else:
            if math.isfinite(sum(values)):
                return values
    return [
        _finite_number(header, line, column, cell)
        for column, cell in zip(features, cells, strict=True)
    ]


def _finite_number(header: Header, line: int, column: int, cell: str) -> float:
    """Return a cell as a number; an error that names its place where it is none."""
    try:
        value = to_number(cell)
    except ValueError:
        what = f"a number, got {cell.strip()!r:.200}"
        raise _unexpected(header, line, column, what) from None
    if not np.isfinite(value):
        raise _unexpected(header, line, column, f"a finite number, got {cell.strip()!r:.200}")
    return value


def _unexpected(header: Header, line: int, column: int, what: str) -> DataFileError:
    return DataFileError(
        f"{header.path}: line {line}, column {header.names[column]!r:.200}: expected {what}"
    )


def _label_values(header: Header, column: int, cells: list[str], lines: list[int]) -> np.ndarray:
    """Return what distinct cells of a label column stand for, see `Labels`."""
    names = np.array(cells, str)
    if not all(map(is_number, cells)):
        return names
    try:
        integers = [int(cell) for cell in cells]
        if any(
            str(integer) != cell.removeprefix("+")
            for integer, cell in zip(integers, cells, strict=True)
        ):
            return names  # names that look like numbers, as 00501 does
        return np.array(integers, np.int64)
    except (ValueError, OverflowError):
        pass
    values = np.array(
        [
            _finite_number(header, line, column, cell)
            for line, cell in zip(lines, cells, strict=True)
        ]
    )
    if (values != np.round(values)).any():
        return values
    # whole numbers, if a float64 tells them from their neighbours
    return values.astype(np.int64) if (np.abs(values) < 2**53).all() else names
