"""The errors of fastbn's own; everything else it raises is a ValueError or a TypeError."""

from __future__ import annotations


class DataFileError(ValueError):
    """A data file that is missing, truncated, mislabelled or malformed."""


class ModelFileError(ValueError):
    """A model file that is missing, truncated, or says something that no model can be."""


class MissingExtraError(ImportError):
    """An optional dependency that the call needs is not installed."""


def missing_extra(what: str, package: str, extra: str) -> MissingExtraError:
    """Return the error for `what`, which needs `package` from the optional extra `extra`."""
    return MissingExtraError(
        f"{what} needs {package}, which is not installed: pip install 'fastbn[{extra}]'"
    )
