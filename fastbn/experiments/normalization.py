"""Raw inputs, inputs scaled to [0, 1], and inputs of mean 0 and deviation 1."""

from __future__ import annotations

from fastbn.experiments._result import Result
from fastbn.experiments._runs import (
    Setting,
    accuracy_panels,
    fastest,
    last,
    percent,
    rate_text,
    seed_runs,
    spread,
    verdict,
)

INPUTS = {"raw": None, "min-max": "minmax", "z-score": "zscore"}
KINDS = {"batch norm": True, "no batch norm": False}
RATES = (0.0001, 0.001, 0.01)


def run(setting: Setting) -> Result:
    """Train on each, with batch norm and without, each at the best of three learning rates."""
    target, rows, best = setting.target, [], {}
    for kind, is_normalized in KINDS.items():
        for inputs, mode in INPUTS.items():
            options = {"batch_norm": is_normalized, "input_normalization": mode}
            runs = {
                lr: seed_runs(setting, f"{inputs}, {kind}, lr {lr:g}", lr=lr, **options)
                for lr in RATES
            }
            chosen = fastest(runs, target)
            group = best[f"{inputs}, {kind}"] = runs[chosen]
            rows.append([
                inputs, kind, rate_text(chosen, RATES),
                spread([one.epochs_to(target) for one in group]),
                percent(last(group, "training")), percent(last(group, "test")),
            ])  # fmt: skip
    findings = []
    for kind in KINDS:
        raw = [one.epochs_to(target) for one in best[f"raw, {kind}"]]
        for inputs in ("min-max", "z-score"):
            scaled = [one.epochs_to(target) for one in best[f"{inputs}, {kind}"]]
            claim = f"with {kind}, {inputs} reaches {target:.0%} in fewer epochs than raw inputs"
            findings.append(verdict(claim, scaled, raw))
    return Result(
        "normalization", "Does it help to normalize the inputs?", setting.describe(),
        ("inputs", "network", "best learning rate", f"epochs to {target:.0%}", "training, %",
         "test, %"),
        rows, findings, accuracy_panels(best, setting.epochs),
    )  # fmt: skip
