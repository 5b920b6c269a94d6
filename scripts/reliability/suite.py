"""All trials, in the order of docs/reliability.md."""

from __future__ import annotations

import broken_files
import extreme_numbers
import killed_fits
import killed_saves
import memory_use
import processes
import same_bits

TRIALS = [
    module.TRIAL
    for module in (
        broken_files,
        killed_saves,
        killed_fits,
        extreme_numbers,
        processes,
        memory_use,
        same_bits,
    )
]
