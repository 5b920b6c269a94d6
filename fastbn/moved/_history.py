"""Where version 0.1 had them; pickles name this place."""

from fastbn.fit.history import EarlyStopping as EarlyStopping
from fastbn.fit.history import History as History
