"""CSV files: a header or none, columns of numbers, and one column of labels.

A file is read row by row into arrays; its cells are never all in memory as strings.
"""

from __future__ import annotations

import csv
import itertools
import operator
import os
import pathlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import IO, Any, NamedTuple

import numpy as np

from fastbn.checks import path_of
from fastbn.errors import DataFileError

Target = str | int | None

# What a file may have at most: columns, and characters in a line.
MAX_COLUMNS = 1 << 20
MAX_LINE = 64 * MAX_COLUMNS

# Characters of a label.
MAX_LABEL = 256

# Rows below the first line that are looked at to tell whether it is a header.
LOOK_AHEAD = 1_000

# Cells that are turned into numbers together.
CHUNK_CELLS = 1 << 16

# A row and the number of its (last) line.
Row = tuple[int, list[str]]


class Header(NamedTuple):
    """The columns of a file; without a line of names they are called "0", "1" and so on."""

    path: pathlib.Path
    names: list[str]
    named: bool


class Columns(NamedTuple):
    """Which columns of a file to read: those of the features, in this order, and the labels'."""

    features: Sequence[int]
    label: int | None


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

    The first line is a header

    - if it has all names of `known`,
    - if it has a name where a line below has a number,
    - if its numbers count the columns, as in 0,1,2 or 0,1,kind, or
    - if it has whole numbers, all different, and one name that does not come again in a column of
      names that do, as in 2019,2020,kind.
    """
    target = path_of("path", path)
    try:
        with open(target, newline="", encoding="utf-8-sig") as file:
            header, rows = _with_header(target, _rows(target, file), known)
            return _read(header, choose(header), rows)
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{target}: cannot be read as CSV: save it as UTF-8 ({error})"
        ) from error
    except (OSError, csv.Error) as error:
        raise DataFileError(f"{target}: cannot be read as CSV: {error}") from error


def quoted(names: Iterable[Any], most: int = 10) -> str:
    """Return names in quotes, the first `most` of them."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


# -- which columns ---------------------------------------------------------------------------------


def target_column(header: Header, target: Target) -> int:
    """Return the number of the target column: by name, by number, or the last one."""
    path, names, _ = header
    if target is None:
        return len(names) - 1
    if isinstance(target, bool) or not isinstance(target, str | Integral):
        raise TypeError(f"target: expected the name or the number of a column, got {target!r:.200}")
    position = _find_column(names, target)
    if position is not None:
        if isinstance(target, str) and (count := names.count(target.strip())) > 1:
            raise DataFileError(
                f"{path}: target: expected the name of one column, got {target!r:.200}, "
                f"which {count} columns have"
            )
        return position
    if isinstance(target, str) and "," in target:
        several = [_find_column(names, part) for part in target.split(",")]
        if None not in several:
            raise DataFileError(
                f"{path}: target: expected one column, got {quoted(target.split(','))}: several "
                "labels of a sample are not done yet, not for CSV files nor by the command line; "
                'in Python BatchNormMLP(loss="sigmoid_cross_entropy") trains on arrays of them'
            )
    listed = str(names) if len(names) <= 20 else quoted(names)
    raise DataFileError(f"{path}: target: expected one of {listed}, got {target!r:.200}")


def _find_column(names: list[str], target: str | Integral) -> int | None:
    """Return the number of a column by its name or its number; None where there is none."""
    if isinstance(target, str):
        target = target.strip()
        if target in names:
            return names.index(target)
        if not (target.isascii() and target.removeprefix("-").isdecimal()):
            return None
    position = int(target)
    return position % len(names) if -len(names) <= position < len(names) else None


def columns_by_name(header: Header, feature_names: Sequence[str]) -> list[int]:
    """Return the numbers of the columns of these names; an error where one is not there once."""
    path, names, _ = header
    positions = {name: position for position, name in enumerate(names)}
    missing = [name for name in feature_names if name not in positions]
    if missing:
        raise DataFileError(
            f"{path}: expected the columns {quoted(feature_names)}, found none called "
            f"{quoted(missing)}; the file has {quoted(names)}"
        )
    wanted = set(feature_names)
    check_names_differ(path, [name for name in names if name in wanted])
    return [positions[name] for name in feature_names]


def check_names_differ(path: Any, names: Sequence[str]) -> None:
    """Refuse columns of the same name."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataFileError(
            f"{path}: expected columns of different names, found {names.count(twice)} called "
            f"{twice!r}"
        )


def columns_by_position(
    header: Header, n_features: int, target: Target, *, labelled: bool = False
) -> Columns:
    """Return `n_features` columns in the order of the file, and that of the labels.

    There are labels if there is a target, or one column more than features; `labelled` demands
    them.
    """
    path, names, _ = header
    columns, label = list(range(len(names))), None
    if labelled or len(names) == n_features + 1 or target is not None:
        if labelled and target is None and len(names) == n_features:
            raise DataFileError(f"{path}: expected {n_features} features and a column of labels")
        label = target_column(header, target)
        columns.remove(label)
    if len(columns) != n_features:
        found = f"{len(names)} columns, {len(names) - len(columns)} of them labels"
        raise DataFileError(
            f"{path}: expected {n_features} features, found {len(columns) if labelled else found}"
        )
    return Columns(columns, label)


# -- rows ------------------------------------------------------------------------------------------


def _lines(path: pathlib.Path, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file; one that no table has is refused before it is taken apart."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) > MAX_COLUMNS:
            if len(line) == MAX_LINE:
                raise DataFileError(
                    f"{path}: line {number}: expected fewer than {MAX_LINE:,} characters"
                )
            _check_width(path, number, line.count(",") + 1)
        yield line


def _check_width(path: pathlib.Path, line: int, width: int) -> None:
    if width > MAX_COLUMNS:
        raise DataFileError(
            f"{path}: line {line}: expected at most {MAX_COLUMNS:,} columns, found {width:,}"
        )


def _rows(path: pathlib.Path, file: IO[str]) -> Iterator[Row]:
    """Yield the rows of a file, all as wide as the first; empty lines are left out."""
    reader = csv.reader(_lines(path, file), strict=True)
    width = 0
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            if width:
                raise DataFileError(
                    f"{path}: line {reader.line_num}: expected {width} columns, found {len(row)}"
                )
            width = len(row)
            _check_width(path, reader.line_num, width)
        yield reader.line_num, row


def _with_header(
    path: pathlib.Path, rows: Iterator[Row], known: Sequence[str] | None
) -> tuple[Header, Iterator[Row]]:
    """Return the header and the rows below it."""
    first = next(rows, None)
    if first is None:
        raise DataFileError(f"{path}: expected rows of numbers, found none")
    names = [cell.strip() for cell in first[1]]
    if known is not None and set(known) <= set(names):
        return Header(path, names, True), rows
    for separator in ";\t":
        if len(names) == 1 and separator in names[0]:
            raise DataFileError(
                f"{path}: the first line has no comma; is it separated by {separator!r}?"
            )
    words = [i for i, name in enumerate(names) if not _is_number(name)]
    if 0 < len(words) < len(names) and _count_columns(names, words):
        return Header(path, names, True), rows
    ahead: list[Row] = []
    looks_on = bool(words) or _count_columns(names, words)
    while looks_on and len(ahead) < LOOK_AHEAD and len(ahead) * len(names) < MAX_COLUMNS:
        row = next(rows, None)
        if row is None:
            break
        ahead.append(row)
        if any(_is_number(row[1][i]) for i in words):
            return Header(path, names, True), itertools.chain(ahead, rows)
    if len(words) == len(names) and all(names) and not ahead:
        raise DataFileError(f"{path}: expected rows of numbers, found a header and no rows")
    below = [[cell.strip() for cell in row] for _, row in ahead]
    if _is_header_of_numbers(names, words, below, known):
        return Header(path, names, True), itertools.chain(ahead, rows)
    numbered = [str(i) for i in range(len(names))]
    return Header(path, numbered, False), itertools.chain([first], ahead, rows)


def _count_columns(names: list[str], words: list[int]) -> bool:
    """Tell whether all names are the numbers of their columns, but for `words`."""
    is_word = set(words)
    return all(i in is_word or name == str(i) for i, name in enumerate(names))


def _is_header_of_numbers(
    names: list[str], words: list[int], below: list[list[str]], known: Sequence[str] | None
) -> bool:
    """Tell whether a first line of numbers, and perhaps one name, is a header."""
    if not below or (known is not None and not set(known) & set(names)):
        return False
    if not words:
        if not _count_columns(names, words) or names in below:
            return False
        # 0,1 is a likely sample of small whole numbers, and 0,1,2 an unlikely one
        return len(names) > 2 or any(not cell.isdecimal() for row in below for cell in row)
    if len(words) > 1 or not _may_be_names(names):
        return False
    column = [row[words[0]] for row in below]
    return names[words[0]] not in column and len(set(column)) < len(column)


def _may_be_names(cells: Sequence[str]) -> bool:
    """Tell whether all numbers of a line are whole, two of them at least, and all are different."""
    numbers = [cell for cell in cells if _is_number(cell)]
    is_whole = all(cell.isdecimal() and str(int(cell)) == cell for cell in numbers)
    return is_whole and len(set(numbers)) == len(numbers) >= 2


def doubtful_sample(path: str | os.PathLike[str]) -> str | None:
    """Return the first line of a CSV file without a header, if it may have been meant for one."""
    target = path_of("path", path)
    with open(target, newline="", encoding="utf-8-sig") as file:
        cells = [cell.strip() for cell in next(_rows(target, file))[1]]
    return ",".join(cells) if _may_be_names(cells) else None


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _number(cell: str) -> float:
    """Return the number that a cell is; ValueError for what Python alone takes for one, as 1_0."""
    cell = cell.strip()
    if not cell or not cell.isascii() or "_" in cell:
        raise ValueError
    return float(cell)


# -- cells -----------------------------------------------------------------------------------------


def _read(header: Header, columns: Columns, rows: Iterable[Row]) -> Table:
    """Read the rows, chunk by chunk."""
    features, label = columns
    first, last = features[0], features[-1]
    if list(features) == list(range(first, last + 1)):
        take: Callable[[list[str]], Sequence[str]] = operator.itemgetter(slice(first, last + 1))
    else:
        take = operator.itemgetter(*features)
    numbers, codes = array("d"), array("q")
    known: dict[str, int] = {}  # labels, and the number of each
    lines_of_known: list[int] = []
    chunk: list[Sequence[str]] = []
    lines: list[int] = []
    most = max(1, CHUNK_CELLS // len(features))
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
        chunk.append(take(row))
        lines.append(line)
        if len(lines) == most:
            numbers.frombytes(_chunk_numbers(header, features, chunk, lines).view(np.uint8))
            chunk.clear()
            lines.clear()
    numbers.frombytes(_chunk_numbers(header, features, chunk, lines).view(np.uint8))
    X = np.frombuffer(numbers, np.float64).reshape(-1, len(features))
    values = np.empty(0, np.int64)
    if label is not None:
        values = _label_values(header, label, list(known), lines_of_known)
    labels = Labels(np.array(list(known), str), values, np.frombuffer(codes, np.int64))
    return Table(header, columns, X, labels)


def _chunk_numbers(
    header: Header, features: Sequence[int], rows: list[Sequence[str]], lines: list[int]
) -> np.ndarray:
    """Return the cells of some rows as float64, one after the other."""
    cells = list(itertools.chain.from_iterable(rows))
    text = "".join(cells)
    if text.isascii() and "_" not in text:
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            pass
        else:
            if np.isfinite(values).all():
                return values
    return np.array(
        [
            _finite_number(header, line, column, cell)
            for line, row in zip(lines, rows, strict=True)
            for column, cell in zip(features, row, strict=True)
        ]
    )


def _finite_number(header: Header, line: int, column: int, cell: str) -> float:
    """Return a cell as a number; an error that names its place where it is none."""
    try:
        value = _number(cell)
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
    if not all(map(_is_number, cells)):
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
