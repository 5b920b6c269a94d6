"""CSV files: columns of numbers, and one column of labels.

A file is read row by row into arrays; its cells are never all in memory as strings.
"""

from __future__ import annotations

import csv
import math
import os
import pathlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import numpy as np

from fastbn.checks import path_of
from fastbn.datasets.csv_columns import Columns, Target, target_column
from fastbn.datasets.csv_header import CsvHeader, CsvRow, number_of, read_header, read_rows
from fastbn.datasets.dataset import Dataset, all_whole, encode_labels, split
from fastbn.errors import DataFileError

MAX_LABEL = 256  # characters


def load_csv(
    path: str | os.PathLike[str], target: Target = None, *, test_size: float = 0.2, seed: int = 0
) -> Dataset:
    """Load a CSV file of numbers and one column of labels.

    Parameters
    ----------
    path : path
        Comma-separated, in UTF-8, with or without a line of column names. The data set keeps the
        names.
    target : str or int, optional
        Name or number of the column of labels, which are integers or names; by default the last
        one. Without a header, columns are named by number.
    test_size, seed
        As in `load_digits`.

    Raises
    ------
    DataFileError
        The file is missing, empty, ragged, or has cells that are not finite numbers; the message
        names the line and the column. Or the target looks like regression: its cells are numbers
        that are not all whole, or more than 100 different whole numbers, or more than 20 with fewer
        than three samples of each on average. Names are always classes, and so are numbers that
        begin with a zero.
    """

    def choose(header: CsvHeader) -> Columns:
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
    data = split(X, y, class_names, pathlib.Path(path).stem, test_size, seed)
    if not named:
        return data
    feature_names = tuple(names[column] for column in features)
    return data._replace(feature_names=feature_names, target_name=target_name)


class Labels(NamedTuple):
    """A column of labels: its distinct values, and for each row the index of its value.

    `values` are int64 if all cells are whole numbers, float64 if all are numbers but not all are
    whole, and names otherwise.
    """

    values: np.ndarray
    codes: np.ndarray

    def by_row(self) -> np.ndarray:
        """Return one number or name per row."""
        return self.values[self.codes]


class Table(NamedTuple):
    """The data of a file: X (rows, features) float64, and labels, empty without a label column."""

    header: CsvHeader
    columns: Columns
    X: np.ndarray
    labels: Labels


def read_csv(
    path: str | os.PathLike[str],
    choose: Callable[[CsvHeader], Columns],
    known: Sequence[str] | None = None,
) -> Table:
    """Read the columns of a CSV file that `choose` returns; features must be finite numbers.

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


def _read(header: CsvHeader, columns: Columns, rows: Iterable[CsvRow]) -> Table:
    features, label = columns
    numbers, codes = array("d"), array("q")
    code_of: dict[str, int] = {}  # by label
    lines: list[int] = []  # of the first occurrence of each label
    for line, row in rows:
        if label is not None:
            cell = row[label].strip()
            if cell not in code_of:
                if not 0 < len(cell) <= MAX_LABEL:
                    found = f"{len(cell):,} characters" if cell else "an empty cell"
                    raise _unexpected(header, line, label, f"a label, got {found}")
                code_of[cell] = len(code_of)
                lines.append(line)
            codes.append(code_of[cell])
        numbers.extend(_finite_numbers(header, line, features, [row[i] for i in features]))
    cells = list(code_of)
    if label is not None and all(number_of(cell) is not None for cell in cells):
        for line, cell in zip(lines, cells, strict=True):
            _finite_numbers(header, line, [label], [cell])
    X = np.frombuffer(numbers, np.float64).reshape(-1, len(features))
    return Table(header, columns, X, Labels(_values(cells), np.frombuffer(codes, np.int64)))


def _finite_numbers(
    header: CsvHeader, line: int, columns: Sequence[int], cells: Sequence[str]
) -> list[float]:
    """Return cells as numbers; the error about one that is not finite names line and column."""
    text = "".join(cells)
    if text.isascii() and "_" not in text:  # the fast way for most rows
        try:
            values = list(map(float, cells))
            if math.isfinite(sum(values)):
                return values
        except ValueError:
            pass
    values = []
    for column, cell in zip(columns, cells, strict=True):
        value = number_of(cell)
        if value is None or not math.isfinite(value):
            what = "a number" if value is None else "a finite number"
            raise _unexpected(header, line, column, f"{what}, got {cell.strip()!r:.200}")
        values.append(value)
    return values


def _unexpected(header: CsvHeader, line: int, column: int, what: str) -> DataFileError:
    return DataFileError(
        f"{header.path}: line {line}, column {header.names[column]!r:.200}: expected {what}"
    )


def _values(cells: list[str]) -> np.ndarray:
    """Return distinct labels as numbers, or as names: see `Labels`."""
    names = np.array(cells, str)
    numbers = [number_of(cell) for cell in cells]
    if None in numbers:
        return names
    try:
        integers = [int(cell) for cell in cells]
        if [str(integer) for integer in integers] != [cell.removeprefix("+") for cell in cells]:
            return names  # they look like numbers, but 00501 is not 501
        return np.array(integers, np.int64)
    except (ValueError, OverflowError):
        values = np.array(numbers, np.float64)
        if all_whole(values):
            return values.astype(np.int64)
        return values if (values != np.round(values)).any() else names
