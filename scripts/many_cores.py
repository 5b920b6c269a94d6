"""Simulate training steps on more cores than this machine has.

    python scripts/many_cores.py

For each network of `fastbn bench --suite step` it prints the time of a step for teams of 1 to 64
threads. *model* is how fastbn chooses the size of a team: the operations of the busiest member at a
constant rate, and barriers and exchanged data at the costs of two threads on this machine. *shares*
takes the tiles that the kernels give to each member instead. Both are simulations: they know no
caches, sockets or limits of memory. *measured* is for as many threads as this machine has cores.
Batch norm and Adam are only measured. The script fails if the number of threads changes the bits of
a result.
"""

import functools
import os
from unittest import mock

import numba
import numpy as np

from fastbn.bench._fastbn import Adam, BatchNorm, FastbnStepper, model_of
from fastbn.bench._timing import interleave
from fastbn.bench._work import ADAMS, BATCH_NORMS, BATCHES, STEPS
from fastbn.doctor import report
from fastbn.jit.intrinsics import PANEL_BYTES, TILE_ROWS
from fastbn.kernels.gemm import whole
from fastbn.kernels.input_products import share_tasks, task_place
from fastbn.kernels.network_arrays import share_rows
from fastbn.parallel import dispatch
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


def sizes():
    """Return the numbers of threads that this machine has cores for."""
    return [size for size in THREADS if size <= available_threads()]


def run_with(size, runner, count):
    """Run a step or a kernel on `size` threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(size)
    with (
        mock.patch.dict(os.environ, FASTBN_NUM_THREADS=str(size)),
        mock.patch.object(dispatch, "PARALLEL_ELEMENTS", 0),
    ):
        runner.run(count)
    numba.set_num_threads(before)


def measure(make):
    """Return the median seconds by the number of threads, after comparing the first results."""
    for size in sizes():
        runner = make()
        run_with(size, runner, 1)
        found = [np.array(result).tobytes() for result in runner.results()]
        if size == 1:
            expected = found
        elif found != expected:
            raise AssertionError(f"{runner} has other bits with {size} threads than with one")
    times = interleave({size: functools.partial(run_with, size, runner) for size in sizes()})
    return {size: timing.median for size, timing in times.items()}


def table(work):
    """Yield the lines of a network's table."""
    layout = model_of(work).layout
    model = layout.team_work(work.batch, np.dtype(np.float32))
    steps = max(1, int(0.05 * FLOPS / model.flops))  # as many as a call of a fit runs
    measured = measure(lambda: FastbnStepper(work))
    title = f"{work.name}: the model chooses {fastest(model, steps, range(1, 65))} of 64 threads"
    yield from ("", title, "", HEAD, "|---" * 6 + "|")
    for size in THREADS:
        found = list(shares(work, layout, size))
        busiest = sum(flops * max(counts) / sum(counts) for flops, counts in found)
        idle = sum(min(counts) == 0 for _, counts in found)
        modelled = seconds(model, steps, size) / steps
        real = modelled + (busiest - busiest_flops(model, size)) / FLOPS
        times = f"{modelled * 1e6:.0f} | {real * 1e6:.0f} | {size * busiest / model.flops:.2f}"
        done = f"{measured[size] / BATCHES * 1e6:.0f}" if size in measured else "-"
        yield f"| {size} | {times} | {idle} of {len(found)} | {done} |"


def kernel_table():
    """Yield the lines of a table of batch norm, forward and backward, and Adam."""
    yield from ("", "Measured, in us:", "", f"| threads | {' | '.join(map(str, sizes()))} |")
    yield "|---" * (1 + len(sizes())) + "|"
    for work in BATCH_NORMS:
        for layout in ("NC", "CN"):
            times = measure(lambda work=work, layout=layout: BatchNorm(work, layout, out=True))
            yield row(f"batch norm {work.name} {layout}", times)
    for work in ADAMS:
        yield row(f"Adam {work.name}", measure(lambda work=work: Adam(work)))


def row(name, times):
    """Return a line of the table of kernels."""
    return f"| {name} | {' | '.join(f'{seconds * 1e6:.0f}' for seconds in times.values())} |"


def main():
    """Print what is simulated, and a table for each network."""
    cpu, (start, barrier, byte) = report().facts.cpu.name, measured_costs()
    print(
        f"A simulation, except for what is measured. Costs measured on {available_threads()} cores"
    )
    print(f"of {cpu}: {start * 1e6:.0f} us to start a call, {barrier * 1e9:.0f} ns a barrier of")
    print(f"two, {byte * 1e9:.3f} ns to exchange a byte. Assumed: barriers take longer in")
    print(f"proportion to the threads, and {FLOPS / 1e9:.0f} GFLOP/s a thread. Times are in us.")
    for work in STEPS:
        print(*table(work), sep="\n", flush=True)
    print(*kernel_table(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
