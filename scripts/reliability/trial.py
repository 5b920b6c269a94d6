"""A trial: a promise, and the cases that test it."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Trial(NamedTuple):
    """A promise, and the cases that could break it.

    `cases(seed, count, folder)` yields the result of each of `count` cases in a few words. An error
    means that the promise is broken. `folder` is a new, empty folder.
    """

    name: str
    promise: str
    count: int
    cases: Callable[[int, int, pathlib.Path], Iterator[str]]

    def run(self, seed: int, share: float, folder: pathlib.Path) -> collections.Counter[str]:
        """Run a share of the cases, at least one; count the results.

        If the promise is broken, raise AssertionError with the number of the case, from 0.
        """
        found: collections.Counter[str] = collections.Counter()
        try:
            found.update(self.cases(seed, self.size(share), folder))
        except Exception as error:
            what = error if isinstance(error, AssertionError) else repr(error)
            raise AssertionError(f"{what} (case {found.total()})") from error
        return found

    def size(self, share: float) -> int:
        """Return the number of cases in a share."""
        return max(1, round(share * self.count))
