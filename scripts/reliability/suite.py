"""All trials, in the order of docs/reliability.md."""

from __future__ import annotations

import broken_files
import extreme_numbers
import killed_fits
import killed_saves
import memory_use
import processes
import same_bits
from trial import Trial

TRIALS: list[Trial] = [
    broken_files.TRIAL,
    killed_saves.TRIAL,
    killed_fits.TRIAL,
    extreme_numbers.TRIAL,
    processes.TRIAL,
    memory_use.TRIAL,
    same_bits.TRIAL,
]
