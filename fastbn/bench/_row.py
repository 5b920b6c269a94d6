"""A row of the table: one piece of work, and the time of each contestant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fastbn.bench._timing import Timing

# If results differ by more than this, relatively, the sides do not do the same work.
WRONG = 1e-3


@dataclasses.dataclass(frozen=True)
class Contestant:
    """The time of a `side` ("fastbn" or a peer) at one of its settings."""

    side: str
    setting: str
    timing: Timing


@dataclasses.dataclass
class Row:
    """The measurements of one piece of work.

    `limits` are times that are hard to beat: the bare matrix products, or a copy of as many bytes.
    `apart` is the largest relative distance of each side's results from fastbn's, if there are
    results to compare. `missing` says why a side is missing. `alone` is the time of fastbn with
    one thread, for work where fastbn chooses the number of threads.
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
        """Return a row; `times` has contestants by (side, setting), and limits by name."""
        sides = [
            Contestant(key[0], key[1], one) for key, one in times.items() if isinstance(key, tuple)
        ]
        limits = {key: one for key, one in times.items() if isinstance(key, str)}
        return cls(suite, work, sides, limits, **more)

    def best(self, side: str) -> Contestant:
        """Return the fastest contestant of a side."""
        found = [one for one in self.contestants if one.side == side]
        return min(found, key=lambda one: one.timing.median)

    @property
    def ours(self) -> float:
        """Seconds of fastbn at its best setting."""
        return self.best("fastbn").timing.median

    @property
    def peers(self) -> dict[str, float]:
        """The time of each peer, at its best setting, as a multiple of fastbn's."""
        sides = dict.fromkeys(one.side for one in self.contestants if one.side != "fastbn")
        return {side: self.best(side).timing.median / self.ours for side in sides}

    @property
    def winner(self) -> str:
        """The fastest side."""
        return min(self.contestants, key=lambda one: one.timing.median).side

    @property
    def over_limit(self) -> float | None:
        """fastbn's time as a multiple of the limit."""
        limit = min((limit.median for limit in self.limits.values()), default=None)
        return self.ours / limit if limit else None

    @property
    def over_alone(self) -> float | None:
        """fastbn's time as a multiple of its time with one thread."""
        return self.ours / self.alone.median if self.alone else None

    @property
    def wrong(self) -> list[str]:
        """The sides whose results differ from fastbn's."""
        return [side for side, apart in self.apart.items() if not apart < WRONG]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON; numbers that are not finite become strings."""
        apart = {side: d if math.isfinite(d) else str(d) for side, d in self.apart.items()}
        return {
            **dataclasses.asdict(self),
            "apart": apart,
            "ratios": self.peers,
            "winner": self.winner,
            "over_limit": self.over_limit,
            "over_alone": self.over_alone,
            "wrong": self.wrong,
        }
