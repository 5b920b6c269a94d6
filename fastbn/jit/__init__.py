"""Numba: compiler options, the cache on disk, and LLVM instructions that NumPy does not offer."""
