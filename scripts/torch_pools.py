"""Measure whether PyTorch and fastbn slow each other down in one process.

    python scripts/torch_pools.py [--processes 7] [--steps 300]

A training step of PyTorch (784-256-128-10, 128 samples, fused Adam) takes turns with the same step
accelerated by `fastbn.torch` and with one of fastbn's NumPy functions. One kind of process uses
PyTorch first, another fastbn first; a third kind, without fastbn, takes turns between two steps of
PyTorch and a function of NumPy. A step takes several times as long if two pools of threads compete
for the cores. The table has median and 99th percentile in microseconds, and of these the median
over the processes. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys

import numpy as np

CODE = """
import json, sys, time
order, steps = sys.argv[1], int(sys.argv[2])

def use_fastbn():
    import fastbn, numpy as np
    x = np.random.default_rng(0).standard_normal((1024, 512), np.float32)
    return lambda: fastbn.batch_norm(x)

numpy_function = use_fastbn() if order == "fastbn first" else None
if numpy_function is not None:
    numpy_function()
import torch

data, labels = torch.randn(128, 784), torch.randint(0, 10, (128,))

def loop(accelerated):
    torch.manual_seed(0)
    layers = []
    for n_in, n_out in [(784, 256), (256, 128), (128, 10)]:
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.BatchNorm1d(n_out), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers)
    if accelerated:
        from fastbn.torch import Adam, accelerate
        accelerate(net, verbose=False)
        optimizer = Adam(net.parameters())
    else:
        optimizer = torch.optim.Adam(net.parameters(), fused=True)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(data), labels).backward()
        optimizer.step()

    return step

plain = loop(accelerated=False)
plain()
if order == "PyTorch first":
    numpy_function = use_fastbn()
work = {"PyTorch": plain}
if numpy_function is None:
    import numpy as np
    x = np.random.default_rng(0).standard_normal((1024, 512), np.float32)
    work |= {"itself": loop(accelerated=False), "NumPy function": lambda: np.tanh(x)}
else:
    work |= {"accelerated": loop(accelerated=True), "NumPy function": numpy_function}
times = {name: [] for name in work}
for step in range(steps + 20):
    for name, run in work.items():
        start = time.perf_counter()
        run()
        if step >= 20:
            times[name].append(time.perf_counter() - start)
print(json.dumps(times))
"""

ORDERS = ("PyTorch alone", "PyTorch first", "fastbn first")


def measure(order: str, steps: int) -> dict[str, list[float]]:
    """Measure each kind of step in a new process; return times in seconds."""
    command = [sys.executable, "-c", CODE, order, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{order}: {done.stderr}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def compare(processes: int, steps: int) -> list[str]:
    """Return the lines of a Markdown table."""
    taken: dict[tuple[str, str], list[np.ndarray]] = {}
    for turn in range(processes):
        for order in ORDERS[:: -1 if turn % 2 else 1]:
            for name, seconds in measure(order, steps).items():
                pair = np.percentile(seconds, [50, 99])
                taken.setdefault((order, name), []).append(pair)
    lines = ["| process | step | median | 99th percentile |", "|---|---|---|---|"]
    for order, name in itertools.product(ORDERS, ("PyTorch", "accelerated")):
        if (order, name) in taken:
            middle, late = np.median(taken[order, name], axis=0)
            lines.append(f"| {order} | {name} | {middle * 1e6:,.0f} | {late * 1e6:,.0f} |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=7, help="Number of each kind (7).")
    parser.add_argument("--steps", type=int, default=300, help="Steps in each process (300).")
    options = parser.parse_args()
    if options.processes < 1 or options.steps < 1:
        parser.error("--processes and --steps: expected 1 or more")
    print("\n".join(compare(options.processes, options.steps)))


if __name__ == "__main__":
    main()
