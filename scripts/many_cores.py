"""Simulate training steps on more cores than this machine has.

    python scripts/many_cores.py

For each network of `fastbn bench --suite step` it prints the time of a step for teams of 1 to 64
threads. *model* is how fastbn chooses the size of a team: the operations of the busiest member at a
constant rate, and barriers and exchanged data at the costs of two threads on this machine. *shares*
takes the tiles that the kernels give to each member instead. Both are simulations: they know no
caches, sockets or limits of memory. *measured* is for as many threads as this machine has cores.
"""

import functools
import os
from unittest import mock

import numpy as np

from fastbn.bench._fastbn import FastbnStepper, model_of
from fastbn.bench._timing import interleave
from fastbn.bench._work import BATCHES, STEPS
from fastbn.doctor import report
from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS
from fastbn.kernels.gemm import whole
from fastbn.kernels.input_products import share_tasks, task_place
from fastbn.kernels.network_arrays import share_rows
from fastbn.parallel.cores import available_threads
from fastbn.parallel.costs import measured_costs
from fastbn.parallel.team import N_COUNTERS, Member
from fastbn.parallel.team_size import FLOPS, busiest_flops, fastest, seconds

THREADS = (1, 2, 4, 8, 16, 32, 64)
WIDTH = PANEL_BYTES // 4  # columns of a panel in float32
HEAD = "| threads | model | shares | busiest / mean | products with idle members | measured |"


def tiles(rows, columns, member, of_data, kept):
    """Return how many tiles of a product (rows, columns) a member computes."""
    if not of_data:
        first, last = share_rows(rows, member)
        return whole(last - first, TILE_ROWS) * whole(columns, WIDTH)
    start, stop, groups = share_tasks(rows, columns, WIDTH, kept, member)
    tasks = (task_place(task, groups, rows, kept, member) for task in range(start, stop))
    return sum(whole(last - first, TILE_ROWS) for _, first, last in tasks)


def shares(work, layout, size):
    """Yield the operations of each product of a step, and the tiles of each member."""
    kept = layout.gathers_whole_batch(work.batch, size)
    members = [Member(np.zeros(N_COUNTERS, np.int64), rank, size) for rank in range(size)]
    for index, (n_in, n_out) in enumerate(work.layers):
        products = [(n_out, work.batch), (n_out, n_in), (n_in, work.batch)]
        for product in products[: 3 if index > 0 else 2]:  # z, gradients of weight and input
            counts = [tiles(*product, member, index == 0, kept) for member in members]
            yield 2.0 * work.batch * n_in * n_out, counts


def measure(work, sizes):
    """Return the seconds of a step by the number of threads."""
    stepper = FastbnStepper(work)

    def run(size, count):
        with mock.patch.dict(os.environ, FASTBN_NUM_THREADS=str(size)):
            stepper.run(count)

    times = interleave({size: functools.partial(run, size) for size in sizes})
    return {size: timing.median / BATCHES for size, timing in times.items()}


def table(work):
    """Yield the lines of a network's table."""
    layout = model_of(work).layout
    model = layout.team_work(work.batch, np.dtype(np.float32))
    steps = max(1, int(0.05 * FLOPS / model.flops))  # as many as a call of a fit runs
    measured = measure(work, [size for size in THREADS if size <= available_threads()])
    title = f"{work.name}: the model chooses {fastest(model, steps, range(1, 65))} of 64 threads"
    yield from ("", title, "", HEAD, "|---" * 6 + "|")
    for size in THREADS:
        found = list(shares(work, layout, size))
        busiest = sum(flops * max(counts) / sum(counts) for flops, counts in found)
        idle = sum(min(counts) == 0 for _, counts in found)
        modelled = seconds(model, steps, size) / steps
        real = modelled + (busiest - busiest_flops(model, size)) / FLOPS
        times = f"{modelled * 1e6:.0f} | {real * 1e6:.0f} | {size * busiest / model.flops:.2f}"
        done = f"{measured[size] * 1e6:.0f}" if size in measured else "-"
        yield f"| {size} | {times} | {idle} of {len(found)} | {done} |"


def main():
    """Print what is simulated, and a table for each network."""
    cpu, (start, barrier, byte) = report().facts.cpu.name, measured_costs()
    print(
        f"A simulation, except for the last column. Costs measured on {available_threads()} cores"
    )
    print(f"of {cpu}: {start * 1e6:.0f} us to start a call, {barrier * 1e9:.0f} ns a barrier of")
    print(f"two, {byte * 1e9:.3f} ns to exchange a byte. Assumed: barriers take longer in")
    print(f"proportion to the threads, and {FLOPS / 1e9:.0f} GFLOP/s a thread. Times are in us.")
    for work in STEPS:
        print(*table(work), sep="\n", flush=True)


if __name__ == "__main__":
    main()
