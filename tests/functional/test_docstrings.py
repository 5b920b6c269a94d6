"""The examples in the docstrings of the NumPy API run and print what they show."""

from __future__ import annotations

import doctest

import pytest

from fastbn import functional
from fastbn.functional import batchnorm, running


def own_functions(module):
    return {name for name in functional.__all__ if getattr(functional, name).__module__ == module}


@pytest.mark.parametrize("name", functional.__all__)
def test_examples(name):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    (example,) = finder.find(getattr(functional, name), name, globs={})
    assert runner.run(example).failed == 0


@pytest.mark.parametrize("module", [batchnorm, running])
def test_every_function_of_batch_norm_has_an_example(module):
    names = own_functions(module.__name__)
    assert len(names) == 3
    for name in names:
        assert ">>> " in getattr(module, name).__doc__, name
