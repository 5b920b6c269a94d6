"""Time training steps of fastbn, of the peers that are installed, and of the bare matrix products.

All take the same steps on the same data, in turns in one process, in both orders. Prints medians in
microseconds a step, and how far the losses of 20 steps lie apart. Run it as
``python scripts/step_times.py`` on a machine that does nothing else.
"""

import importlib.util

import numpy as np

from fastbn._threads import allowed_cores
from fastbn.bench._fastbn import BareGemms, FastbnStepper
from fastbn.bench._numpy import NumpyStepper
from fastbn.bench._step_work import BATCHES, STEPS
from fastbn.bench._timing import interleave


def contestants(work):
    """Return those that train, and the bare products, by name."""
    counts = sorted({1, allowed_cores()})
    found = {"fastbn": FastbnStepper(work)}
    found |= {f"NumPy, {n} threads": NumpyStepper(work, n) for n in counts}
    if importlib.util.find_spec("torch"):
        from fastbn.bench._torch import TorchStepper

        found |= {f"PyTorch, {n} threads": TorchStepper(work, n, False) for n in counts}
    if importlib.util.find_spec("jax"):
        from fastbn.bench._jax import JaxStepper

        found |= {"JAX, jit": JaxStepper(work, False), "JAX, scan": JaxStepper(work, True)}
    return found, {f"bare products, {n} threads": BareGemms(work, n) for n in counts}


def main():
    """Print a table for every net."""
    for work in STEPS:
        peers, products = contestants(work)
        losses = {name: peer.run(3 * BATCHES)[:20] for name, peer in peers.items()}
        apart = max(float(np.abs(loss / losses["fastbn"] - 1).max()) for loss in losses.values())
        # a scan takes whole epochs: all are asked for them
        times = interleave(
            {
                name: lambda epochs, one=one: one.run(epochs * BATCHES)
                for name, one in {**peers, **products}.items()
            }
        )
        print(f"{work.name}    losses apart by {apart:.0e}")
        for name, timing in sorted(times.items(), key=lambda item: item[1].median):
            each = timing.median / BATCHES * 1e6
            print(f"  {name:<28} {each:>9,.0f} us  +- {timing.spread:.0%}", flush=True)


if __name__ == "__main__":
    main()
