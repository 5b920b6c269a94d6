"""Adam, AdamW, RMSprop and SGD with momentum, each at its best learning rate."""

from __future__ import annotations

from typing import Any

from fastbn.experiments._result import Result
from fastbn.experiments._runs import (
    Run,
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

RATES: dict[str, tuple[float, ...]] = {
    "adam": (0.0003, 0.001, 0.003, 0.01),
    "adamw": (0.0003, 0.001, 0.003, 0.01),
    "rmsprop": (0.0001, 0.0003, 0.001, 0.003),
    "sgd": (0.003, 0.01, 0.03, 0.1),
}
OPTIONS: dict[str, dict[str, Any]] = {"adamw": {"weight_decay": 0.05}}


def run(setting: Setting) -> Result:
    """Train with each at four learning rates, and compare the best of each."""
    target, rows = setting.target, []
    best: dict[str, list[Run]] = {}
    for name, rates in RATES.items():
        runs = {
            lr: seed_runs(
                setting, f"{name}, lr {lr:g}", optimizer=name, lr=lr, **OPTIONS.get(name, {})
            )
            for lr in rates
        }
        chosen = fastest(runs, target)
        best[name] = group = runs[chosen]
        rows.append([
            name, rate_text(chosen, rates), spread([one.epochs_to(target) for one in group]),
            percent(last(group, "training")), percent(last(group, "test")),
            spread([one.seconds for one in group], "{:.2f}"),
        ])  # fmt: skip
    epochs = {name: [one.epochs_to(target) for one in group] for name, group in best.items()}
    findings = [
        verdict(f"adam reaches {target:.0%} in fewer epochs than {name}", epochs["adam"], values)
        for name, values in epochs.items()
        if name != "adam"
    ]
    findings += [
        verdict(f"adam ends with the better test accuracy than {name}",
                last(group, "test"), last(best["adam"], "test"))
        for name, group in best.items()
        if name != "adam"
    ]  # fmt: skip
    return Result(
        "optimizers", "Which optimizer needs the fewest epochs?", setting.describe(),
        ("optimizer", "best learning rate", f"epochs to {target:.0%}", "training, %", "test, %",
         "seconds, tests of every epoch included"),
        rows, findings, accuracy_panels(best, setting.epochs),
    )  # fmt: skip
