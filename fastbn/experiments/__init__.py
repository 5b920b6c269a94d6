"""Claims about batch normalization and training, put to the test on real data.

Each experiment trains networks from several seeds, and says whether a claim holds: all seeds of one
side lie beyond all of the other, or they do not.
"""

from __future__ import annotations

from collections.abc import Callable

from fastbn.checks import choice, flag, integer
from fastbn.experiments import (
    batch_size,
    convergence,
    gradient,
    normalization,
    optimizers,
    output,
    shift,
)
from fastbn.experiments._result import Result
from fastbn.experiments._runs import SEEDS, Setting, full_setting, quick_setting
from fastbn.model.config import MAX_SEED

EXPERIMENTS: dict[str, Callable[[Setting], Result]] = {
    "convergence": convergence.run,
    "gradient": gradient.run,
    "normalization": normalization.run,
    "shift": shift.run,
    "batch-size": batch_size.run,
    "optimizers": optimizers.run,
    "output": output.run,
}


def run(
    name: str, *, quick: bool = False, seed: int = 0, say: Callable[[str], None] | None = None
) -> Result:
    """Run an experiment.

    Parameters
    ----------
    name : str
        One of `EXPERIMENTS`.
    quick : bool
        On the embedded digits, in a minute; otherwise on Fashion-MNIST, in some minutes.
    seed : int
        The first of three.
    say : callable, optional
        Gets a line of text after each training.

    Returns
    -------
    Result

    Raises
    ------
    TypeError, ValueError
        An argument is not as described above.
    DataFileError
        There is no Fashion-MNIST.
    """
    choice("name", name, tuple(EXPERIMENTS))
    seed = integer("seed", seed, 0, MAX_SEED - SEEDS)
    quick = flag("quick", quick)
    if not (say is None or callable(say)):
        raise TypeError(f"say: expected a callable, got {say!r:.200}")
    setting = (quick_setting if quick else full_setting)(seed, say or (lambda line: None))
    return EXPERIMENTS[name](setting)


__all__ = ["EXPERIMENTS", "Result", "run"]
