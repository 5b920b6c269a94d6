"""All trials, in the order of docs/reliability.md."""

from __future__ import annotations

import broken_files
import extreme_numbers
import killed
import memory_use
import processes
import same_bits

TRIALS = [
    broken_files.TRIAL, killed.SAVES, killed.FITS, extreme_numbers.TRIAL, processes.TRIAL,
    memory_use.TRIAL, same_bits.TRIAL,
]  # fmt: skip
