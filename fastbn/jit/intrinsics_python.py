"""What `fastbn.jit.intrinsics` does, in plain Python: for NUMBA_DISABLE_JIT."""

from __future__ import annotations

import ctypes
import math
import time

import numpy as np

# Bytes of a row of a panel (kernels/gemm.py): two registers of AVX-512, four of AVX.
PANEL_BYTES = 128

# Bytes of a cache line.
LINE_BYTES = 64


def strided(x: np.ndarray) -> np.ndarray:
    """Return the array."""
    return x


def view(buffer: np.ndarray, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array on the numbers of a contiguous buffer from `start` on."""
    return buffer.reshape(-1)[start : start + math.prod(shape)].reshape(shape)


def at_address(like: np.ndarray, address: int, size: int) -> np.ndarray:
    """Return an array of `size` numbers of the dtype of `like` at an address."""
    if size == 0:
        return np.empty(0, like.dtype)
    memory = (ctypes.c_byte * (size * like.itemsize)).from_address(int(address))
    return np.frombuffer(memory, like.dtype)


def scratch_like(x: np.ndarray, size: int) -> np.ndarray:
    """Return memory for `size` numbers of x's dtype."""
    return np.empty(size, x.dtype)


def multiply_tile(
    rows: int, vectors: int, a: np.ndarray, i: int, panels: np.ndarray, start: int,
    k: int, depth: int, out: np.ndarray, j: int, columns: int, accumulate: int,
) -> None:  # fmt: skip
    """out[i : i + rows, j : j + columns] (+)= a[i : i + rows, k : k + depth] panel."""
    width = PANEL_BYTES // out.itemsize
    panel = panels[start : start + depth * width].reshape(depth, width)
    columns = min(columns, vectors * width // 2)
    total = np.zeros((rows, columns), out.dtype)
    for n in range(depth):  # in this order, whatever the tile
        total += a[i : i + rows, k + n, None] * panel[n, :columns]
    target = out[i : i + rows, j : j + columns]
    target[...] = target + total if accumulate else total


def transpose_tile(
    x: np.ndarray, start: int, stride: int, y: np.ndarray, y_start: int, y_stride: int
) -> None:
    """y[c, r] = x[r, c] of an 8 x 8 tile of flat arrays."""
    for r in range(8):
        for c in range(8):
            y[y_start + c * y_stride + r] = x[start + r * stride + c]


def prefetch(x: np.ndarray, row: int, column: int) -> None:
    """Do nothing: Python has no say in caches."""


def stream_piece(size: int, piece: np.ndarray, target: np.ndarray, j: int) -> None:
    """target[j : j + size] = piece[:size]."""
    target[j : j + size] = piece[:size]


def fence() -> None:
    """Do nothing: Python keeps the order."""


def multiply_add(a: np.floating, b: np.floating, c: np.floating) -> np.floating:
    """a * b + c."""
    return a * b + c


def exp_of_nonpositive(x: np.floating) -> np.floating:
    """e**x."""
    return np.exp(x)


def flush_denormals() -> int:
    """Do nothing: Python has no say in the processor's modes."""
    return 0


def restore_denormals(mode: int) -> None:
    """Do nothing."""


def ticks() -> int:
    """Time in nanoseconds."""
    return time.perf_counter_ns()


def mark(log: np.ndarray | None, place: int) -> None:
    """Note in the log, if there is one, that `place` ends now."""
    if log is not None:
        log[0, 0] += 1
        if log[0, 0] < log.shape[0]:
            log[log[0, 0]] = ticks(), place
