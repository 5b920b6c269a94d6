"""Whether the first line of a CSV file is a header.

It is one

- if it has all names that are known,
- if it has a name where a line below has a number,
- if its numbers count the columns, as in 0,1,2 or 0,1,kind, or
- if it has whole numbers, all different, and one name that does not come again in a column of names
  that do, as in 2019,2020,kind.
"""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastbn.checks import path_of
from fastbn.datasets.csv_rows import MAX_COLUMNS, Row, is_number, read_rows
from fastbn.errors import DataFileError

# Rows below the first line that are looked at to tell whether it is a header.
LOOK_AHEAD = 1_000


class Header(NamedTuple):
    """The columns of a file; without a line of names they are called "0", "1" and so on."""

    path: pathlib.Path
    names: list[str]
    named: bool


def read_header(
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
    words = [i for i, name in enumerate(names) if not is_number(name)]
    if 0 < len(words) < len(names) and _count_columns(names, words):
        return Header(path, names, True), rows
    ahead: list[Row] = []
    looks_on = bool(words) or _count_columns(names, words)
    while looks_on and len(ahead) < LOOK_AHEAD and len(ahead) * len(names) < MAX_COLUMNS:
        row = next(rows, None)
        if row is None:
            break
        ahead.append(row)
        if any(is_number(row[1][i]) for i in words):
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
    numbers = [cell for cell in cells if is_number(cell)]
    is_whole = all(cell.isdecimal() and str(int(cell)) == cell for cell in numbers)
    return is_whole and len(set(numbers)) == len(numbers) >= 2


def doubtful_sample(path: str | os.PathLike[str]) -> str | None:
    """Return the first line of a CSV file without a header, if it may have been meant for one."""
    target = path_of("path", path)
    with open(target, newline="", encoding="utf-8-sig") as file:
        cells = [cell.strip() for cell in next(read_rows(target, file))[1]]
    return ",".join(cells) if _may_be_names(cells) else None
