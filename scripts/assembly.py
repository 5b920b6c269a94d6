"""Print the assembly of a kernel, and the compiler's remarks on its loops.

    python scripts/assembly.py [KERNEL [DTYPE]]

KERNEL is a name such as optimizers.adam_values; without one, the script lists all kernels. The
remarks on stderr say which loops were vectorized, with which width, and why others were not. The
assembly is followed by a count of floating-point instructions by register type. The script compiles
all kernels again, which takes half a minute.
"""

import collections
import importlib
import pkgutil
import re
import sys

import llvmlite.binding as llvm
import numba
from numba.core.caching import NullCache
from numba.core.registry import CPUDispatcher

import fastbn.kernels
from fastbn.warmup import warm_up

REMARKS = ("pass-remarks", "pass-remarks-missed", "pass-remarks-analysis")

# x86: packed or scalar, and the type of register; ARM: vectors have lanes, as in v0.4s.
X86 = re.compile(
    r"^\s+v?(?:f?n?m?(?:add|sub|mul|div|max|min)|sqrt|cmp)\w*([ps])[sd]\s.*?%([xyz]mm)"
)
ARM = re.compile(
    r"^\s+fn?(?:m?add|m?sub|mul|div|ml[as]|m[as][db]|max|min|sqrt|cm)\w*\s+([vz]\d+\.\w+|[sd]\d+)"
)


def kernels():
    """Return all kernels by name."""
    found = {}
    for module in pkgutil.iter_modules(fastbn.kernels.__path__):
        for name, value in vars(importlib.import_module(f"fastbn.kernels.{module.name}")).items():
            if isinstance(value, CPUDispatcher) and value.py_func.__module__.endswith(module.name):
                found[f"{module.name}.{name}"] = value
    return found


def compiled_again(kernel, dtype):
    """Yield each signature that fastbn calls the kernel with, and its assembly."""
    inner = getattr(kernel.get_overload, "__self__", kernel)
    signatures = {*kernel.signatures, *inner.signatures}
    options = {name: value for name, value in kernel.targetoptions.items() if name != "nopython"}
    for signature in sorted(signatures, key=str):
        if dtype in str(signature):
            fresh = numba.njit(**options)(kernel.py_func)
            fresh.compile(signature)
            yield signature, next(iter(fresh.inspect_asm().values()))


def count(assembly):
    """Return the number of floating-point instructions by register type."""
    found = collections.Counter()
    for line in assembly.splitlines():
        if match := X86.match(line):
            found[f"{'packed' if match[1] == 'p' else 'scalar'} {match[2]}"] += 1
        elif match := ARM.match(line):
            found["packed" if "." in match[1] else "scalar"] += 1
    return ", ".join(f"{number} {kind}" for kind, number in found.most_common()) or "none"


def main(arguments):
    """Show one kernel, or the names of all."""
    known = kernels()
    if not arguments:
        print(*sorted(known), sep="\n")
        return
    name, dtype = arguments[0], (arguments[1:] or ["float32"])[0]
    if name not in known or dtype not in ("float32", "float64"):
        sys.exit(__doc__)
    for kernel in known.values():
        kernel._cache = NullCache()  # kernels from disk lack the signatures of what they call
    for _ in warm_up(dtype):  # compiles for the signatures of fastbn's calls
        pass
    for option in REMARKS:
        llvm.set_option("", f"--{option}=loop-vectorize")
    shown = 0
    for signature, assembly in compiled_again(known[name], dtype):
        print(f"{name}{signature}\n\n{assembly}\nfloating point: {count(assembly)}\n")
        shown += 1
    if not shown:
        sys.exit(f"{name} is inlined in its callers; look at network.train_steps")


if __name__ == "__main__":
    main(sys.argv[1:])
