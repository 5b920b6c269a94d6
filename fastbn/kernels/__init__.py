"""Kernels: `@njit` loops on arrays. Call them from Python or from your own `@njit` functions.

Scalars must have the dtype of the arrays where that matters for speed: a Python float beside
float32 arrays is computed in float64. `fastbn.functional` takes care of that.
"""
