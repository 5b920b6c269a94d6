"""Five experiments, each a table of variants."""

from __future__ import annotations

from runner import KINDS, Claim, Table

INPUTS = {"raw": None, "min-max": "minmax", "z-score": "zscore"}
OPTIMIZERS = {
    "adam": ({}, (0.0003, 0.001, 0.003, 0.01)),
    "adamw": ({"weight_decay": 0.05}, (0.0003, 0.001, 0.003, 0.01)),
    "rmsprop": ({}, (0.0001, 0.0003, 0.001, 0.003)),
    "sgd": ({}, (0.003, 0.01, 0.03, 0.1)),
}


def convergence(setting):
    """Compare epochs to a target with and without batch norm, at several learning rates."""
    high = 0.03
    return Table(
        name="convergence",
        question="Does batch norm need fewer epochs to a target?",
        labels=("network",),
        variants={kind: {"batch_norm": value} for kind, value in KINDS.items()},
        rates=(0.0003, 0.001, 0.003, 0.01, high),
        every_rate=True,
        measures=("epochs", "training", "test"),
        claims=[
            Claim(
                "each at its best learning rate, batch norm reaches {target} in fewer epochs",
                "epochs", "batch norm", "no batch norm",
            ),
            Claim(
                f"at the largest rate, {high:g}, batch norm reaches {{target}} in fewer epochs",
                "epochs", ("batch norm", high), ("no batch norm", high),
            ),
            Claim(
                "each at its best rate, batch norm ends with the better test accuracy",
                "test", "no batch norm", "batch norm",
            ),
        ],
    )  # fmt: skip


def gradient(setting):
    """Compare the exact gradient with one that treats mean and deviation as constants.

    There are ten minibatches in an epoch, and inputs are scaled to [0, 1].
    """
    settings = {"betas": (0.9, 0.99), "input_normalization": "minmax"}
    rates = (0.05, 0.005)
    return Table(
        name="gradient",
        question="Does the gradient through mean and deviation matter?",
        labels=("gradient",),
        variants={
            f"{kind}, lr {lr:g}": {"gradient": kind, "lr": lr, **settings}
            for lr in rates
            for kind in ("exact", "detached")
        },
        shape={"hidden": (32,), "epochs": 60, "batch_size": -(-len(setting.data.y_train) // 10)},
        target=0.9,
        measures=("epochs", "training", "test", "swing"),
        claims=[
            claim
            for lr in rates
            for claim in (
                Claim(
                    f"at lr {lr:g} the exact gradient reaches {{target}} in fewer epochs",
                    "epochs", f"exact, lr {lr:g}", f"detached, lr {lr:g}",
                ),
                Claim(
                    f"at lr {lr:g} the exact gradient ends with the better test accuracy",
                    "test", f"detached, lr {lr:g}", f"exact, lr {lr:g}",
                ),
            )
        ],
    )  # fmt: skip


def normalization(setting):
    """Compare raw inputs with min-max scaling and z-scores."""
    return Table(
        name="normalization",
        question="Does it help to normalize the inputs?",
        labels=("inputs", "network"),
        variants={
            f"{inputs}, {kind}": {"batch_norm": value, "input_normalization": mode}
            for kind, value in KINDS.items()
            for inputs, mode in INPUTS.items()
        },
        rates=(0.0001, 0.001, 0.01),
        measures=("epochs", "training", "test"),
        claims=[
            Claim(
                f"with {kind}, {inputs} reaches {{target}} in fewer epochs than raw inputs",
                "epochs", f"{inputs}, {kind}", f"raw, {kind}",
            )
            for kind in KINDS
            for inputs in ("min-max", "z-score")
        ],
    )  # fmt: skip


def batch_size(setting):
    """Compare the gap between training and test accuracy over batch sizes."""
    sizes = (8, 32, 128, 512) if setting.quick else (16, 64, 256, 1024, 4096)
    small, large = sizes[0], sizes[-1]
    return Table(
        name="batch-size",
        question="Do small batches regularize?",
        labels=("network", "batch size"),
        variants={
            f"{kind}, {size}": {"batch_norm": value, "batch_size": size}
            for kind, value in KINDS.items()
            for size in sizes
        },
        rates=(0.0003, 0.001, 0.01),
        batch_sizes=sizes,
        measures=("final training", "test", "gap"),
        claims=[
            claim
            for kind in KINDS
            for claim in (
                Claim(
                    f"with {kind}, batches of {small} leave a smaller gap than of {large}",
                    "gap", f"{kind}, {small}", f"{kind}, {large}",
                ),
                Claim(
                    f"with {kind}, batches of {small} end with the better test accuracy",
                    "test", f"{kind}, {large}", f"{kind}, {small}",
                ),
            )
        ],
    )  # fmt: skip


def optimizers(setting):
    """Compare four optimizers, each at its best learning rate."""
    others = [name for name in OPTIMIZERS if name != "adam"]
    return Table(
        name="optimizers",
        question="Which optimizer needs the fewest epochs?",
        labels=("optimizer",),
        variants={name: {"optimizer": name, **more} for name, (more, _) in OPTIMIZERS.items()},
        rates={name: rates for name, (_, rates) in OPTIMIZERS.items()},
        measures=("epochs", "training", "test", "seconds"),
        claims=[
            Claim(f"adam reaches {{target}} in fewer epochs than {name}", "epochs", "adam", name)
            for name in others
        ]
        + [
            Claim(f"adam ends with the better test accuracy than {name}", "test", name, "adam")
            for name in others
        ],
    )
