"""Hold peers to the instruction set that fastbn is limited to (`FASTBN_ISA`)."""

from __future__ import annotations

from fastbn.jit.isa import VARIABLE

# For each level, what OpenBLAS, oneDNN, MKL, PyTorch, its compiler and XLA read.
_NAMES = ("OPENBLAS_CORETYPE", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS",
          "ATEN_CPU_CAPABILITY", "TORCHINDUCTOR_CPP_MARCH", "XLA_FLAGS")  # fmt: skip
_VALUES = {
    "sse2": ("Prescott", "SSE41", "SSE4_2", "default", "x86-64", "--xla_cpu_max_isa=SSE4_2"),
    "avx2": ("Haswell", "AVX2", "AVX2", "avx2", "haswell", "--xla_cpu_max_isa=AVX2"),
    "avx512": ("SkylakeX", "AVX512_CORE", "AVX512", "avx512", "skylake-avx512",
               "--xla_cpu_max_isa=AVX512"),
}  # fmt: skip

# Sides that a level does not hold, and what they use. ONNX Runtime, and Eigen, which multiplies for
# JAX, take the best kernels that the processor can run, and have no option or variable against it.
ONNX = {"onnxruntime": "processor's best"}
BEST = {**ONNX, "jax": "products: processor's best"}
NOT_HELD = {
    "sse2": {"torch": "SSE4", "torch-compile": "SSE4", "numpy": "SSE3", **BEST},
    "avx2": BEST,
    "avx512": ONNX,
}


def environment(level: str) -> dict[str, str]:
    """Return the variables that hold fastbn and its peers to a level, from their start on."""
    return {VARIABLE: level, **dict(zip(_NAMES, _VALUES[level], strict=True))}


def note(level: str | None, side: str) -> str:
    """Return what a side uses if the level does not hold it, or ""."""
    return NOT_HELD.get(level or "", {}).get(side, "")
