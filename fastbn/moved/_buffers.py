"""Pickles of version 0.1 look for these classes in this module."""

from fastbn.model.layout import BufferLayout as Layout  # noqa: F401
