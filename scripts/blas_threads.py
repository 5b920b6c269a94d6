"""Time training steps with one BLAS thread and with two, alone and beside a busy process.

Both are measured in turns in one process, nine times, in both orders; the table shows medians with
the smallest and the largest, in microseconds a step. Run it as ``python scripts/blas_threads.py``
on a machine that does nothing else.
"""

import contextlib
import subprocess
import sys
import time

import numpy as np

from fastbn import BatchNormMLP, _jit, model

NETS = [
    ((20, 64, 64, 2), 64, 400),
    ((784, 256, 128, 10), 128, 100),
    ((784, 32, 10), 6000, 8),
    ((784, 1024, 1024, 10), 256, 8),
]
REPEATS = 9
HOLDS = {1: _jit.serial_blas, 2: contextlib.nullcontext()}


def stepper(sizes, batch, steps):
    """Return a function that runs `steps` steps and returns the microseconds of one."""
    rng = np.random.default_rng(0)
    net = BatchNormMLP(sizes)
    x = rng.standard_normal((4 * batch, sizes[0])).astype(np.float32)
    samples = net._training_samples(x, rng.integers(0, sizes[-1], 4 * batch), None)
    order, bounds = np.arange(4 * batch), np.arange(0, 4 * batch + 1, batch)

    def run():
        start = time.perf_counter()
        for _ in range(steps // 4):
            net.run_steps(samples, order, bounds, np.full(4, 1e-3))
        return (time.perf_counter() - start) / (steps // 4 * 4) * 1e6

    return run


def measure(sizes, batch, steps):
    """Return the times of both numbers of threads."""
    run = stepper(sizes, batch, steps)
    times = {1: [], 2: []}
    for repeat in range(-1, REPEATS):  # the first compiles and warms up
        for threads in (1, 2) if repeat % 2 else (2, 1):
            model.serial_blas = HOLDS[threads]
            seconds = run()
            if repeat >= 0:
                times[threads].append(seconds)
    return times


def main():
    """Print the table."""
    _jit._set_threads(_jit.blas_library(), 2)
    for busy in (False, True):
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            print("beside a busy process" if busy else "alone")
            for sizes, batch, steps in NETS:
                times = measure(sizes, batch, steps)
                cells = [
                    f"{n} thread{'s'[: n - 1]} {np.median(t):,.0f} ({min(t):,.0f} to {max(t):,.0f})"
                    for n, t in times.items()
                ]
                print(f"  {'-'.join(map(str, sizes))} @ {batch}: {'   '.join(cells)}")
        finally:
            if neighbour is not None:
                neighbour.kill()
                neighbour.wait()


if __name__ == "__main__":
    main()
