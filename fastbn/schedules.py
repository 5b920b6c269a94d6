"""Public names of the learning-rate schedules."""

from fastbn.fit.schedules import Schedule, schedule_function

__all__ = ["Schedule", "schedule_function"]


def __dir__() -> list[str]:
    return __all__
