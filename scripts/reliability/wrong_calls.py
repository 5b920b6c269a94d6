"""All wrong calls, and those that are unusual but right."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator

import right_calls
import wrong_commands
import wrong_edges
import wrong_files
import wrong_fits
import wrong_functions
import wrong_models
import wrong_modules
from trial import Trial

TABLES = (
    wrong_functions, wrong_files, wrong_models, wrong_fits, wrong_edges, wrong_modules,
)  # fmt: skip
WRONG = [
    *[row for table in TABLES for subject in table.SUBJECTS for row in subject.rows()],
    *wrong_commands.ROWS,
]
RIGHT = right_calls.ROWS
ROWS = [*WRONG, *RIGHT]


def cases(seed: int, count: int, folder: pathlib.Path) -> Iterator[str]:
    """Yield the errors of so many wrong calls, in the order of the seed."""
    wrong_files.prepare(folder)
    for row in random.Random(seed).sample(ROWS, count):
        missing = row.missing()
        yield f"skipped: no {missing[0]}" if missing else row.check(folder)


TRIAL = Trial(
    "calls",
    "A wrong call is an error that names the argument, and changes nothing.",
    len(ROWS),
    cases,
)
