"""Whether small batches regularize: the gap between training and test by batch size."""

from __future__ import annotations

import numpy as np

from fastbn.experiments._result import Panel, Result
from fastbn.experiments._runs import Setting, fastest, last, percent, rate_text, seed_runs, verdict

KINDS = {"batch norm": True, "no batch norm": False}
SIZES = {True: (8, 32, 128, 512), False: (16, 64, 256, 1024, 4096)}  # quick, and in full
RATES = (0.0003, 0.001, 0.01)


def run(setting: Setting) -> Result:
    """Train at batch sizes far apart, each at the best of three learning rates."""
    sizes, rows = SIZES[setting.quick], []
    gaps: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    tests: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for kind, is_normalized in KINDS.items():
        for size in sizes:
            runs = {
                lr: seed_runs(
                    setting, f"{kind}, batch {size}, lr {lr:g}", batch_size=size, lr=lr,
                    batch_norm=is_normalized,
                )
                for lr in RATES
            }  # fmt: skip
            chosen = fastest(runs, setting.target)
            group = runs[chosen]
            training, test = [one.final_training for one in group], last(group, "test")
            gaps[kind].append([a - b for a, b in zip(training, test, strict=True)])
            tests[kind].append(test)
            rows.append([
                kind, str(size), rate_text(chosen, RATES), percent(training), percent(test),
                percent(gaps[kind][-1]),
            ])  # fmt: skip
    findings = []
    for kind in KINDS:
        findings.append(
            verdict(f"with {kind}, batches of {sizes[0]} leave a smaller gap than of {sizes[-1]}",
                    gaps[kind][0], gaps[kind][-1])
        )  # fmt: skip
        findings.append(
            verdict(f"with {kind}, batches of {sizes[0]} end with the better test accuracy",
                    tests[kind][-1], tests[kind][0])
        )  # fmt: skip
    x = np.array(sizes)
    panels = [
        Panel(title, "batch size", {kind: (x, np.array(values[kind]).T) for kind in KINDS},
              log_x=True, is_part=True)
        for title, values in (("Training less test accuracy", gaps), ("Test accuracy", tests))
    ]  # fmt: skip
    return Result(
        "batch-size", "Do small batches regularize?",
        setting.describe(batch=f"{sizes[0]} to {sizes[-1]}"),
        ("network", "batch size", "best learning rate", "training, %", "test, %", "gap, points"),
        rows, findings, panels,
    )  # fmt: skip
