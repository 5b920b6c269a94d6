"""Public names of the training loop: early stopping, history, callbacks, minibatches."""

from fastbn.fit.history import EarlyStopping, History
from fastbn.fit.loop import Callback
from fastbn.fit.plan import minibatch_bounds

__all__ = ["Callback", "EarlyStopping", "History", "minibatch_bounds"]


def __dir__() -> list[str]:
    return __all__
