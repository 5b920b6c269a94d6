"""The rows of a CSV file, one by one, and cells that are numbers."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator
from typing import IO

from fastbn.errors import DataFileError

# What a file may have at most: columns, and characters in a line.
MAX_COLUMNS = 1 << 20
MAX_LINE = 64 * MAX_COLUMNS

# A row and the number of its (last) line.
Row = tuple[int, list[str]]


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


def read_rows(path: pathlib.Path, file: IO[str]) -> Iterator[Row]:
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


def is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    try:
        to_number(cell)
    except ValueError:
        return False
    return True


def to_number(cell: str) -> float:
    """Return the number that a cell is; ValueError for what Python alone takes for one, as 1_0."""
    cell = cell.strip()
    if not cell or not cell.isascii() or "_" in cell:
        raise ValueError
    return float(cell)
