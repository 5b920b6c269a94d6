"""The rows of a CSV file, and whether the first line is a header.

It is one

- if it has all known names,
- if it has a name where a line below has a number,
- if its numbers count the columns, as in 0,1,2 or 0,1,kind, or
- if it has different whole numbers and one name, which does not occur again in its column although
  others do, as in 2019,2020,kind.
"""

from __future__ import annotations

import csv
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from fastbn.checks import path_of
from fastbn.errors import DataFileError

MAX_COLUMNS = 1 << 20
MAX_LINE = 64 * MAX_COLUMNS  # characters
LOOK_AHEAD = 1_000  # rows that are compared with the first line

CsvRow = tuple[int, list[str]]  # with the number of its last line


def read_rows(path: pathlib.Path, file: IO[str]) -> Iterator[CsvRow]:
    """Yield the rows of a file, all as wide as the first; empty lines are skipped."""
    reader = csv.reader(_lines(path, file), strict=True)
    width = 0
    for row in filter(None, reader):
        width = width or len(row)
        if len(row) != width:
            raise DataFileError(
                f"{path}: line {reader.line_num}: expected {width} columns, found {len(row)}"
            )
        _check_width(path, reader.line_num, width)
        yield reader.line_num, row


def _lines(path: pathlib.Path, file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file; one that is far too long is refused before it is split."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
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


def number_of(cell: str) -> float | None:
    """Return a cell as a number, or None. Python's 1_0 and non-ASCII digits are not numbers here.

    >>> [number_of(cell) for cell in (" 1e3", "nan", "1_0", "")]
    [1000.0, nan, None, None]
    """
    cell = cell.strip()
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


class CsvHeader(NamedTuple):
    """The columns of a file; without a line of names they are called "0", "1" and so on."""

    path: pathlib.Path
    names: list[str]
    named: bool


def read_header(
    path: pathlib.Path, rows: Iterator[CsvRow], known: Sequence[str] | None
) -> tuple[CsvHeader, Iterator[CsvRow]]:
    """Return the header and the rows below it."""
    first = next(rows, None)
    if first is None:
        raise DataFileError(f"{path}: expected rows of numbers, found none")
    names = _stripped(first)
    if known is not None and set(known) <= set(names):
        return CsvHeader(path, names, True), rows
    for separator in ";\t":
        if len(names) == 1 and separator in names[0]:
            raise DataFileError(
                f"{path}: the first line has no comma; is it separated by {separator!r}?"
            )
    most = min(LOOK_AHEAD, MAX_COLUMNS // len(names))
    ahead = list(itertools.islice(rows, most))
    if _is_header(names, [_stripped(row) for row in ahead], known):
        return CsvHeader(path, names, True), itertools.chain(ahead, rows)
    numbered = [str(i) for i in range(len(names))]
    return CsvHeader(path, numbered, False), itertools.chain([first], ahead, rows)


def _stripped(row: CsvRow) -> list[str]:
    return [cell.strip() for cell in row[1]]


def _is_header(names: list[str], below: list[list[str]], known: Sequence[str] | None) -> bool:
    """Apply the rules above to a first line that lacks one of the known names."""
    words = [i for i, name in enumerate(names) if number_of(name) is None]
    may_count = names.copy()
    for i in words:
        may_count[i] = str(i)
    counts = may_count == [str(i) for i in range(len(names))]
    if counts and 0 < len(words) < len(names):
        return True
    if not below:
        return len(words) == len(names) and all(names)
    if any(number_of(row[i]) is not None for row in below for i in words):
        return True
    if known is not None and not set(known) & set(names):
        return False
    if not words:
        # above small whole numbers, 0,1 is more likely a sample, and 0,1,2 a header
        is_likely = len(names) > 2 or not all(cell.isdecimal() for row in below for cell in row)
        return counts and names not in below and is_likely
    if len(words) > 1 or not _may_be_names(names):
        return False
    column = [row[words[0]] for row in below]
    return names[words[0]] not in column and len(set(column)) < len(column)


def _may_be_names(cells: Sequence[str]) -> bool:
    """Tell whether a line has at least two numbers, all of them whole and different."""
    numbers = [cell for cell in cells if number_of(cell) is not None]
    is_whole = all(cell.isdecimal() and str(int(cell)) == cell for cell in numbers)
    return is_whole and len(set(numbers)) == len(numbers) >= 2


def doubtful_sample(path: str | os.PathLike[str]) -> str | None:
    """Return the first line of a CSV file without a header, if it may have been meant as one."""
    target = path_of("path", path)
    with open(target, newline="", encoding="utf-8-sig") as file:
        cells = _stripped(next(read_rows(target, file)))
    return ",".join(cells) if _may_be_names(cells) else None
