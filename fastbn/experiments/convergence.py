"""Whether a network with batch norm needs fewer epochs to a target than one without."""

from __future__ import annotations

from fastbn.experiments._result import Result
from fastbn.experiments._runs import (
    Setting,
    accuracy_panels,
    fastest,
    last,
    percent,
    seed_runs,
    spread,
    verdict,
)

KINDS = {"batch norm": True, "no batch norm": False}
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)


def run(setting: Setting) -> Result:
    """Train both at several learning rates, and compare the best of each."""
    target, rows, best, highest = setting.target, [], {}, {}
    for kind, is_normalized in KINDS.items():
        runs = {
            lr: seed_runs(setting, f"{kind}, lr {lr:g}", batch_norm=is_normalized, lr=lr)
            for lr in RATES
        }
        chosen = fastest(runs, target)
        best[f"{kind}, lr {chosen:g}"] = runs[chosen]
        highest[kind] = runs[RATES[-1]]
        for lr, group in runs.items():
            rows.append([
                kind, f"{lr:g}" + (" (best)" if lr == chosen else ""),
                spread([one.epochs_to(target) for one in group]),
                percent(last(group, "training")), percent(last(group, "test")),
            ])  # fmt: skip
    findings = []
    for where, pair in (
        ("each at its best learning rate", list(best.values())),
        (f"at the largest rate, {RATES[-1]:g}", list(highest.values())),
    ):
        with_norm, without = ([one.epochs_to(target) for one in group] for group in pair)
        claim = f"{where}, batch norm reaches {target:.0%} in fewer epochs"
        findings.append(verdict(claim, with_norm, without))
    without, with_norm = (last(best[name], "test") for name in reversed(best))
    findings.append(
        verdict("each at its best rate, batch norm ends with the better test accuracy", without,
                with_norm)
    )  # fmt: skip
    return Result(
        "convergence", "Does batch norm need fewer epochs to a target?", setting.describe(),
        ("network", "learning rate", f"epochs to {target:.0%}", "training, %", "test, %"),
        rows, findings, accuracy_panels(best, setting.epochs),
    )  # fmt: skip
