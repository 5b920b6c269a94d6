"""Where version 0.1 had them; pickles name this place."""

from fastbn.fit.schedules import Schedule as Schedule
