"""Pickles of version 0.1 look for these classes in this module."""

from fastbn.model.scaling import TargetScaling as TargetScaling
