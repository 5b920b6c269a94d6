"""Measure the rates of matrix products and copies in docs/design.md, with one thread.

    python scripts/product_rates.py

It measures the products of training steps with packing and in NumPy's BLAS, and a copy by
non-temporal stores and an ordinary one. The two sides take turns; the figures are medians of nine.
Run it on an idle machine. `fastbn profile` measures the rate of a register tile.
"""

import numpy as np

from fastbn.bench._fastbn import BareGemms
from fastbn.bench._timing import interleave
from fastbn.bench._work import BATCHES, STEPS
from fastbn.jit.compiler import njit
from fastbn.kernels.gemm import multiply, pack_panels, pack_panels_of_transpose
from fastbn.kernels.streams import stream
from fastbn.model.buffers import aligned_zeros
from fastbn.model.layout import rounded_up

FLOAT = np.dtype(np.float32)


@njit
def copy(source, target):
    """Copy with ordinary stores."""
    for i in range(target.size):
        target[i] = source[i]


def packed_products(products):
    """Return a function that packs and computes the products."""
    places = [aligned_zeros(b.shape[0] * rounded_up(b.shape[1]), FLOAT) for _, b, _ in products]

    def run(count):
        for _ in range(count):
            for (a, b, out), panels in zip(products, places, strict=True):
                if b.flags.c_contiguous:
                    pack_panels(b, panels, 0, b.shape[0])
                else:
                    pack_panels_of_transpose(b.T, 0, b.shape[1], panels, 0, b.shape[1])
                multiply(a, panels, b.shape[0], out, 0, out.shape[0])

    return run


def main():
    """Print all rates."""
    for work in STEPS:
        bare = BareGemms(work, 1)
        flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in bare.products)
        times = interleave({"fastbn": packed_products(bare.products), "BLAS": bare.run})
        ours = flops / times["fastbn"].median / 1e9
        blas = BATCHES * flops / times["BLAS"].median / 1e9
        print(f"{work.name}: {ours:.0f} GFLOP/s, BLAS {blas:.0f}", flush=True)
    source, target = np.ones(1 << 24, FLOAT), np.ones(1 << 24, FLOAT)
    runs = {
        "non-temporal": lambda n: [stream(source, target) for _ in range(n)],
        "ordinary": lambda n: [copy(source, target) for _ in range(n)],
    }
    for name, timing in interleave(runs).items():
        print(f"copy of 64 MB, {name}: {2 * source.nbytes / timing.median / 1e9:.0f} GB/s")


if __name__ == "__main__":
    main()
