"""A row of the table: one piece of work, and how long every contestant took for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fastbn.bench._timing import Timing

# Relative distance of two sides' results from which one of them does other work.
WRONG = 1e-3


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who took how long: a `side` ("fastbn" or a peer), at one of its settings."""

    side: str
    setting: str
    timing: Timing


@dataclasses.dataclass
class Row:
    """What was measured of one piece of work.

    `limits` are times that the work cannot well fall below: its bare matrix products, or moving its
    bytes at the speed of a copy. `apart` is the largest relative distance of each side's results
    from fastbn's, where there are results to compare. `missing` says why a side is not there.
    `alone` is fastbn with one thread, where it chooses how many it takes.
    """

    suite: str
    work: str
    contestants: list[Contestant]
    limits: dict[str, Timing] = dataclasses.field(default_factory=dict)
    apart: dict[str, float] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    flops: float | None = None
    alone: Timing | None = None

    @classmethod
    def of(cls, suite: str, work: str, times: Mapping[Any, Timing], **more: Any) -> Row:
        """Return the row of these times: those of a (side, setting), and limits by their names."""
        contestants = [
            Contestant(key[0], key[1], one) for key, one in times.items() if isinstance(key, tuple)
        ]
        limits = {key: one for key, one in times.items() if isinstance(key, str)}
        return cls(suite, work, contestants, limits, **more)

    def best(self, side: str) -> Contestant | None:
        """Return a side at its best setting."""
        found = [one for one in self.contestants if one.side == side]
        return min(found, key=lambda one: one.timing.median, default=None)

    def ratio(self, side: str) -> float | None:
        """Return how many times fastbn's time a side takes."""
        ours, theirs = self.best("fastbn"), self.best(side)
        if ours is None or theirs is None:
            return None
        return theirs.timing.median / ours.timing.median

    @property
    def sides(self) -> list[str]:
        """All sides, in order."""
        return list(dict.fromkeys(one.side for one in self.contestants))

    @property
    def winner(self) -> str:
        """The side that took least."""
        return min(self.contestants, key=lambda one: one.timing.median).side

    @property
    def best_peer_ratio(self) -> float | None:
        """Return how many times fastbn's time the best peer takes."""
        ratios = [self.ratio(side) for side in self.sides if side != "fastbn"]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    @property
    def over_limit(self) -> float | None:
        """Return fastbn's time as a multiple of the limit."""
        ours = self.best("fastbn")
        if ours is None or not self.limits:
            return None
        return ours.timing.median / min(limit.median for limit in self.limits.values())

    @property
    def over_alone(self) -> float | None:
        """Return fastbn's time as a multiple of what one thread takes."""
        ours = self.best("fastbn")
        return ours.timing.median / self.alone.median if ours and self.alone else None

    @property
    def wrong(self) -> list[str]:
        """The sides whose results are not fastbn's."""
        return [side for side, apart in self.apart.items() if not apart < WRONG]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, for JSON; what is not finite becomes a string."""
        values: dict[str, Any] = dataclasses.asdict(self)
        values["apart"] = {
            side: apart if math.isfinite(apart) else str(apart)
            for side, apart in self.apart.items()
        }
        ratios = {side: self.ratio(side) for side in self.sides if side != "fastbn"}
        return values | {
            "ratios": ratios,
            "winner": self.winner,
            "over_limit": self.over_limit,
            "over_alone": self.over_alone,
            "wrong": self.wrong,
        }
