"""Tables of samples: CSV and NPZ files."""

from __future__ import annotations

import csv
import os
import pathlib
import zipfile
import zlib
from numbers import Integral

import numpy as np

from fastbn._checks import path_of
from fastbn.errors import DataFileError

Target = str | int | None

# What NumPy and zipfile let through from a file that is damaged, encrypted, or announces an array
# that fits no memory.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, MemoryError, OverflowError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def encode_labels(where: str, raw: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels 0 to K - 1 and the names of the classes, sorted; at least two of them."""
    raw = np.asarray(raw)
    if raw.dtype.kind == "f" and _all_integers(raw):
        raw = raw.astype(np.int64)
    if raw.dtype.kind not in "iubUS":
        raise DataFileError(f"{where}: expected labels that are integers or names, got {raw.dtype}")
    classes, labels = np.unique(raw, return_inverse=True)
    if classes.size < 2:
        raise DataFileError(
            f"{where}: expected at least two classes, found {classes.tolist()!r:.200}"
        )
    return labels.reshape(-1).astype(np.int64), tuple(str(name) for name in classes)


def _all_integers(values: np.ndarray) -> bool:
    """Return whether all are whole numbers that a float64 tells from their neighbours."""
    return bool((np.abs(values) < 2**53).all() and (values == np.round(values)).all())


def read_csv(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]], list[int]]:
    """Return column names, rows of cells and their line numbers.

    The first line is a header if it has a name where a line below has a number, or if its numbers
    count the columns and it has names too; otherwise columns are called "0", "1" and so on.
    """
    target = path_of("path", path)
    rows, lines = [], []
    try:
        with open(target, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    rows.append([cell.strip() for cell in row])
                    lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(f"{target}: cannot be read as CSV: {error}") from error
    if not rows:
        raise DataFileError(f"{target}: expected rows of numbers, found none")
    if _is_header(rows[0], rows[1:]):
        names, rows, lines = rows[0], rows[1:], lines[1:]
    else:
        names = [str(i) for i in range(len(rows[0]))]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise DataFileError(
                f"{target}: line {line}: expected {len(names)} columns, found {len(row)}"
            )
    return names, rows, lines


def _is_header(first: list[str], others: list[list[str]]) -> bool:
    numbered = [cell == str(i) for i, cell in enumerate(first) if _is_number(cell)]
    if numbered and all(numbered) and len(numbered) < len(first):
        return True
    return any(
        not _is_number(name) and any(_is_number(row[i]) for row in others if i < len(row))
        for i, name in enumerate(first)
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def target_column(path: str | os.PathLike[str], names: list[str], target: Target) -> int:
    """Return the number of the target column: by name, by number, or the last one."""
    if target is None:
        return len(names) - 1
    if isinstance(target, bool) or not isinstance(target, str | Integral):
        raise TypeError(f"target: expected the name or the number of a column, got {target!r:.200}")
    if isinstance(target, str) and target in names:
        return names.index(target)
    try:
        position = int(target)
    except ValueError:
        position = len(names)
    if not -len(names) <= position < len(names):
        raise DataFileError(f"{path}: target: expected one of {names!r:.200}, got {target!r:.200}")
    return position % len(names)


def numbers(
    path: str | os.PathLike[str],
    names: list[str],
    rows: list[list[str]],
    lines: list[int],
    columns: list[int],
) -> np.ndarray:
    """Return the cells of `columns` as float64 (rows, columns); all must be finite numbers."""
    result = np.empty((len(rows), len(columns)))
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        for j, column in enumerate(columns):
            try:
                result[i, j] = float(row[column])
            except ValueError:
                raise DataFileError(
                    f"{path}: line {line}, column {names[column]!r:.200}: "
                    f"expected a number, got {row[column]!r:.200}"
                ) from None
    bad = np.argwhere(~np.isfinite(result))
    if bad.size:
        i, j = bad[0]
        raise DataFileError(
            f"{path}: line {lines[i]}, column {names[columns[j]]!r:.200}: "
            f"expected a finite number, got {rows[i][columns[j]]!r:.200}"
        )
    return result


def raw_labels(
    path: str | os.PathLike[str],
    names: list[str],
    rows: list[list[str]],
    lines: list[int],
    column: int,
) -> np.ndarray:
    """Return a column of labels: integers where all cells are whole numbers, names otherwise."""
    cells = [row[column] for row in rows]
    if "" in cells:
        raise DataFileError(
            f"{path}: line {lines[cells.index('')]}, column {names[column]!r:.200}: "
            "expected a label, got an empty cell"
        )
    if not all(_is_number(cell) for cell in cells):
        return np.array(cells)
    try:
        integers = [int(cell) for cell in cells]
        if any(
            str(integer) != cell.removeprefix("+")
            for integer, cell in zip(integers, cells, strict=True)
        ):
            return np.array(cells)  # names that look like numbers, as 00501 does
        return np.array(integers, np.int64)
    except (ValueError, OverflowError):
        values = np.array([float(cell) for cell in cells])
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataFileError(
            f"{path}: line {lines[bad[0]]}, column {names[column]!r:.200}: "
            f"expected a finite number, got {cells[bad[0]]!r:.200}"
        )
    return values.astype(np.int64) if _all_integers(values) else np.array(cells)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file, keys in lower case; nothing in it is executed."""
    target = path_of("path", path)
    try:
        with open(target, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DataFileError(f"{target}: expected an NPZ file, found a single array")
            return {name.lower(): _read_array(target, loaded, name) for name in loaded.files}
    except NPZ_ERRORS as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{target}: cannot be read as NPZ: {error}") from error


def _read_array(path: pathlib.Path, loaded: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return loaded[key]
    except NPZ_ERRORS as error:
        raise DataFileError(f"{path}: {key}: cannot be read as NPZ: {error}") from error


def npz_features(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], key: str
) -> np.ndarray:
    """Return arrays[key] as a matrix of finite numbers; more dimensions are flattened."""
    if key not in arrays:
        raise DataFileError(f"{path}: expected the key {key!r}, found {sorted(arrays)!r:.200}")
    x = arrays[key]
    if x.dtype.kind not in "fiub" or x.ndim < 2 or x.size == 0:
        raise DataFileError(
            f"{path}: {key}: expected numbers of shape (samples, features), got {x.dtype} {x.shape}"
        )
    x = x.reshape(x.shape[0], -1)
    if not np.isfinite(x).all():
        raise DataFileError(f"{path}: {key}: expected finite numbers, found others")
    return x


def npz_labels(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], key: str, n_samples: int
) -> np.ndarray:
    """Return arrays[key] as it is, one label per sample."""
    if key not in arrays:
        raise DataFileError(f"{path}: expected the key {key!r}, found {sorted(arrays)!r:.200}")
    y = arrays[key]
    if y.shape != (n_samples,):
        raise DataFileError(f"{path}: {key}: expected shape ({n_samples},), got {y.shape}")
    try:
        return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: {key}: expected names in UTF-8: {error}") from error
