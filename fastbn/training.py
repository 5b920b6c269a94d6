"""The loop of a fit, under its public name: early stopping, history, minibatches."""

from fastbn.fit.history import EarlyStopping as EarlyStopping
from fastbn.fit.history import History as History
from fastbn.fit.loop import Callback as Callback
from fastbn.fit.loop import minibatch_bounds as minibatch_bounds
