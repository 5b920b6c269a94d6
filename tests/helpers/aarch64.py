"""Compile kernels for ARM (aarch64, NEON) on any processor, to read their assembly.

Import this in a new process before fastbn and numba, or load it with ``pytest -p aarch64``. From
then on numba compiles for a 64-bit ARM processor under Linux. It optimizes modules, but does not
load them. So a kernel can be compiled and disassembled, but not called, and it is not cached.
NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name the processor, by default one with NEON only.
"""

from __future__ import annotations

import os
import platform

os.environ["FASTBN_ISA"] = ""  # a level of x86-64 processors
os.environ.setdefault("NUMBA_CPU_NAME", "generic")
os.environ.setdefault("NUMBA_CPU_FEATURES", "+neon")

from llvmlite import binding
from llvmlite.binding import targets
from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen

platform.machine = lambda: "aarch64"
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
binding.get_process_triple = targets.get_default_triple = lambda: "aarch64-unknown-linux-gnu"

# What loads a module or takes an address in it. (fastbn checks the names of parameters.)
JITCPUCodegen._add_module = lambda self, module: None
JITCPUCodegen.set_env = lambda self, env_name, env: None
JITCodeLibrary._finalize_specific = lambda self: None
JITCodeLibrary.get_pointer_to_function = lambda self, name: self._ensure_finalized() or 1
FunctionCache._save_overload = lambda self, sig, data: None
