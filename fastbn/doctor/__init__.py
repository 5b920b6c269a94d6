"""What this machine gives to fastbn, and what is slow or unsafe on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastbn.doctor import _advice
from fastbn.doctor._facts import DISTRIBUTIONS, Facts, gather, installed_version

__all__ = ["DISTRIBUTIONS", "Facts", "Report", "installed_version", "report"]


@dataclasses.dataclass(frozen=True)
class Report:
    """Facts and advice: `warnings` are things to mend, `notes` things to know."""

    facts: Facts
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return facts, warnings and notes as one dictionary that JSON can hold."""
        advice = {"warnings": list(self.warnings), "notes": list(self.notes)}
        return {**dataclasses.asdict(self.facts), **advice}


def report() -> Report:
    """Look at versions, processor, threads, cache and extras.

    Nothing is compiled and no thread is started, so that it is safe to call anywhere.

    Returns
    -------
    Report
        Its `warnings` are empty where all is well.
    """
    facts = gather()
    return Report(facts, tuple(_advice.warnings(facts)), tuple(_advice.notes(facts)))
