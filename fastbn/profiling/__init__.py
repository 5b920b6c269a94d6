"""Where the time of a training step goes: kernels, layers, and the limits of the machine."""

from fastbn.profiling._profile import Part, Profile, profile_training

__all__ = ["Part", "Profile", "profile_training"]


def __dir__() -> list[str]:
    return __all__
