"""All trials, in the order of docs/reliability.md."""

from __future__ import annotations

from trial import Trial

TRIALS: list[Trial] = []
