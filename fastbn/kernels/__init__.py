"""Kernels: `@njit` loops on arrays. Call them from Python or from your own `@njit` functions.

For speed, pass scalars in the dtype of the arrays: with a Python float, an expression of float32
arrays is computed in float64. `fastbn.functional` takes care of that.
"""
