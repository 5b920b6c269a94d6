"""Numba: compiler options, the cache on disk, and instructions that NumPy has no name for."""
