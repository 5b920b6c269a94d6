"""Whether it matters that mean and deviation of the batch have gradients, too."""

from __future__ import annotations

import numpy as np

from fastbn.experiments._result import Result
from fastbn.experiments._runs import (
    Setting,
    accuracy_panels,
    last,
    percent,
    seed_runs,
    spread,
    verdict,
)

# The recipe of the notes: ten minibatches an epoch, inputs from 0 to 1.
HIDDEN, EPOCHS, MINIBATCHES, RATE = (32,), 60, 10, 0.05
RECIPE = {"betas": (0.9, 0.99), "input_normalization": "minmax"}


def run(setting: Setting) -> Result:
    """Train with the exact gradient, and with mean and deviation taken for constants."""
    batch = -(-len(setting.data.y_train) // MINIBATCHES)
    shape = {"hidden": HIDDEN, "epochs": EPOCHS, "batch_size": batch}
    target = 0.9
    rows, found = [], {}
    for lr in (RATE, RATE / 10):
        for kind in ("exact", "detached"):
            name = f"{kind}, lr {lr:g}"
            found[name] = seed_runs(setting, name, gradient=kind, lr=lr, **shape, **RECIPE)
            swing = [float(np.ptp(one.test[-10:])) for one in found[name]]
            rows.append([
                kind, f"{lr:g}", spread([one.epochs_to(target) for one in found[name]]),
                percent(last(found[name], "training")), percent(last(found[name], "test")),
                percent(swing),
            ])  # fmt: skip
    findings = []
    for lr in (RATE, RATE / 10):
        exact, detached = (found[f"{kind}, lr {lr:g}"] for kind in ("exact", "detached"))
        findings.append(
            verdict(
                f"at lr {lr:g} the exact gradient reaches {target:.0%} in fewer epochs",
                [one.epochs_to(target) for one in exact],
                [one.epochs_to(target) for one in detached],
            )
        )
        findings.append(
            verdict(
                f"at lr {lr:g} the exact gradient ends with the better test accuracy",
                last(detached, "test"), last(exact, "test"),
            )
        )  # fmt: skip
    return Result(
        "gradient", "Does the gradient through mean and deviation matter?",
        setting.describe(hidden=HIDDEN, epochs=EPOCHS, batch=batch),
        ("gradient", "learning rate", f"epochs to {target:.0%}", "training, %", "test, %",
         "swing of the last ten test accuracies, points"),
        rows, findings, accuracy_panels(found, EPOCHS),
    )  # fmt: skip
