"""The examples in the docstrings are right, in float32 as users run them."""

import doctest
import importlib
import pkgutil

import jax
import pytest

import experiments
import hypergrad


def modules():
    for package in (hypergrad, experiments):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                yield info.name


@pytest.mark.parametrize("name", list(modules()))
def test_doctests(name):
    with jax.enable_x64(False):
        results = doctest.testmod(
            importlib.import_module(name), optionflags=doctest.ELLIPSIS
        )
    assert results.failed == 0


def test_public_classes_of_the_library_have_examples():
    """Each estimator, searcher and schedule shows itself at work."""
    from hypergrad.problem import Problem

    for value in (Problem, hypergrad.Reverse, hypergrad.search, hypergrad.verify):
        assert ">>>" in value.__doc__
