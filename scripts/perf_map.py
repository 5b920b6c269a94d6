"""Run a Python program, and tell `perf` the names of fastbn's compiled kernels.

    perf record python scripts/perf_map.py PROGRAM [ARGUMENT...]
    perf report

`perf` cannot name machine code that was compiled while the program ran. When the program ends, this
script writes the addresses of the kernels to /tmp/perf-PID.map, which `perf report` reads.
"""

import os
import pathlib
import runpy
import sys

from numba.core.registry import cpu_target

# Symbols have no size, so a function ends where the next one starts, or after this many bytes.
LONGEST = 1 << 16


def symbols():
    """Return address and name of every compiled function, ordered by address."""
    engine = cpu_target.target_context.codegen()._engine
    found = {engine._ee.get_function_address(name): name for name in engine._defined_symbols}
    return sorted((address, readable(name)) for address, name in found.items() if address)


def readable(name):
    """Shorten a mangled name such as "_ZN6fastbn7kernels4gemm14multiply_inner..."."""
    rest, parts = name.removeprefix("_ZN"), []
    while rest[:1].isdigit():
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        length = int(digits)
        parts.append(rest[len(digits) : len(digits) + length])
        rest = rest[len(digits) + length :]
    return ".".join(parts[:4]) or name


def write_map():
    """Write the file that perf reads."""
    found = symbols()
    ends = [address for address, _ in found[1:]] + [1 << 63]
    lines = [
        f"{address:x} {min(end - address, LONGEST):x} {name}"
        for (address, name), end in zip(found, ends, strict=False)
    ]
    path = pathlib.Path(f"/tmp/perf-{os.getpid()}.map")
    path.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} functions in {path}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.argv = sys.argv[1:]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        write_map()
