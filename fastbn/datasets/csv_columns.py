"""Find the columns of the features and of the target in a CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

from fastbn.datasets.csv_header import CsvHeader
from fastbn.errors import DataFileError

Target = str | int | None


class Columns(NamedTuple):
    """The columns to read: the features, in this order, and the labels."""

    features: Sequence[int]
    label: int | None


def quoted(names: Sequence[Any]) -> str:
    """Return the first ten names in quotes, and how many more there are."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def target_column(header: CsvHeader, target: Target) -> int:
    """Return the index of the target column: by name, by number, or the last one."""
    path, names, _ = header
    if target is None:
        return len(names) - 1
    if isinstance(target, bool) or not isinstance(target, str | Integral):
        raise TypeError(f"target: expected the name or the number of a column, got {target!r:.200}")
    found = _find_column(names, target)
    if found is not None:
        if isinstance(target, str) and (count := names.count(target.strip())) > 1:
            raise DataFileError(
                f"{path}: target: expected the name of one column, got {target!r:.200}, "
                f"which {count} columns have"
            )
        return found
    parts = target.split(",") if isinstance(target, str) else []
    if len(parts) > 1 and None not in [_find_column(names, part) for part in parts]:
        raise DataFileError(
            f"{path}: target: expected one column, got {quoted(parts)}: several labels per "
            "sample are not supported yet in CSV files and on the command line; in Python "
            'BatchNormMLP(loss="sigmoid_cross_entropy") trains on arrays of them'
        )
    listed = str(names) if len(names) <= 20 else quoted(names)
    raise DataFileError(f"{path}: target: expected one of {listed}, got {target!r:.200}")


def _find_column(names: list[str], target: str | Integral) -> int | None:
    """Return the index of a column by its name or its number; None if there is none."""
    if isinstance(target, str):
        target = target.strip()
        if target in names:
            return names.index(target)
        if not (target.isascii() and target.removeprefix("-").isdecimal()):
            return None
    position = int(target)
    return position % len(names) if -len(names) <= position < len(names) else None


def columns_by_name(header: CsvHeader, feature_names: Sequence[str]) -> list[int]:
    """Return the columns with these names; each name has to be there exactly once."""
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


def choose_by_position(
    header: CsvHeader, n_features: int, target: Target, *, labelled: bool = False
) -> Columns:
    """Return `n_features` columns in the order of the file, and the column of the labels.

    The file has labels if a target is given, or if it has one column more than features. With
    `labelled` it must have them.
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
