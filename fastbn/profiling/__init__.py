"""Profile a training step by kernel and layer, and measure the limits of the machine."""

from fastbn.profiling._profile import Part, Profile, profile_training

__all__ = ["Part", "Profile", "profile_training"]


def __dir__() -> list[str]:
    return __all__
