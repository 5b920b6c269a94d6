"""Pickles of version 0.1 look for these classes in this module."""

from fastbn.fit.history import EarlyStopping as EarlyStopping
from fastbn.fit.history import History as History
