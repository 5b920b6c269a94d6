"""The instruction set that kernels are compiled for: the processor's own, or a smaller one.

``FASTBN_ISA`` limits it to a level that the processor has, for tests and comparisons. The limit is
numba's, so it holds for all functions that numba compiles in the process.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import numba
from llvmlite import binding

VARIABLE = "FASTBN_ISA"

_AVX2 = (
    "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "sahf", "avx", "avx2", "bmi", "bmi2",
    "f16c", "fma", "lzcnt", "movbe", "xsave",
)  # fmt: skip
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

# Levels of x86-64 processors: LLVM's name, and the features beyond SSE2.
LEVELS = {"sse2": ("x86-64", ()), "avx2": ("x86-64-v3", _AVX2), "avx512": ("x86-64-v4", _AVX512)}

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
IS_ARM = platform.machine().lower() in ("aarch64", "arm64")


def has(feature: str) -> bool:
    """Tell whether numba compiles for a feature, of this processor or of NUMBA_CPU_FEATURES."""
    config: Any = numba.config
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    return bool(binding.get_host_cpu_features().get(feature))


def level() -> str:
    """Return the highest level that kernels use, "neon" on ARM, or "unknown"."""
    if not IS_X86:
        return "neon" if IS_ARM else "unknown"
    return [name for name, (_, features) in LEVELS.items() if all(map(has, features))][-1]


def limit() -> None:
    """Make numba compile for the level in `FASTBN_ISA`, if it is set.

    Raises
    ------
    ValueError
        There is no such level, or the processor does not have it.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return
    if name not in LEVELS or not IS_X86:
        known = ", ".join(LEVELS) if IS_X86 else f"no value on {platform.machine()}"
        raise ValueError(f"{VARIABLE}: expected {known}, got {name!r:.200}")
    processor, features = LEVELS[name]
    present = binding.get_host_cpu_features()
    missing = [feature for feature in features if not present.get(feature)]
    if missing:
        lacks = ", ".join(missing)
        raise ValueError(f"{VARIABLE}: expected a level of this processor, got {name}: no {lacks}")
    flags = [f"+{feature}" for feature in features]
    if name == "avx512":
        flags.append("-prefer-256-bit")  # LLVM's default for this name
    # numba reads its settings from the environment again at times, and so do child processes
    os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = processor, ",".join(flags)
    config: Any = numba.config
    config.reload_config()
