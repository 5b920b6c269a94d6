"""Matrix products on contiguous row-major arrays, through the BLAS that scipy brings.

Named by which operand is transposed. Numba turns `np.dot` with a transposed contiguous operand into
one GEMM call without a copy.
"""

from __future__ import annotations

import numpy as np

from fastbn._jit import njit


@njit
def matmul_nn(a, b, out):
    """out (M, N) = a (M, K) b (K, N)."""
    np.dot(a, b, out)


@njit
def matmul_nt(a, b, out):
    """out (M, N) = a (M, K) b^T, b (N, K)."""
    np.dot(a, b.T, out)


@njit
def matmul_tn(a, b, out):
    """out (M, N) = a^T b, a (K, M), b (K, N)."""
    np.dot(a.T, b, out)
