"""
The types that applications see have names that applications may use.
"""

import ast
import importlib
import inspect
import pkgutil
from typing import TypeVar

import pytest

import txtableflip

MADE_BY_US = {"Fds", "_Named", "InheritableEndpoint"}
"""
Classes of which an application is given the instances, so that what they are made
of is not its affair.
"""


def publicModules():
    """
    Return the modules without an underscore anywhere in their names.
    """
    found = [each.name for each in pkgutil.walk_packages(txtableflip.__path__, "txtableflip.")]
    return ["txtableflip", *(name for name in found if "._" not in name)]


def exports(name):
    """
    Return what a type checker lets others import from a module: C{__all__}, or what is
    defined there.
    """
    module = importlib.import_module(name)
    defined = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == name]
    public = [n for n in getattr(module, "__all__", defined) if not n.startswith("_")]
    return [getattr(module, n) for n in public]


PUBLIC = {
    (value.__module__, value.__name__): value
    for name in publicModules()
    for value in exports(name)
    if hasattr(value, "__name__")
}


def definition(value):
    """
    Return the syntax of a class, an interface or a function.
    """
    source = inspect.getsource(inspect.getmodule(value))
    body = ast.parse(source).body
    (node,) = [each for each in body if getattr(each, "name", "") == value.__name__]
    return node


def isShown(name, node):
    """
    Return whether applications use a method or an attribute of this name.
    """
    isMaking = name == "__init__" and node.name not in MADE_BY_US
    return isMaking or not name.startswith("_")


def annotations(node):
    """
    Return the syntax of the annotations that a class or function shows.
    """
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        every = (*named, arguments.vararg, arguments.kwarg)
        return [node.returns, *(each.annotation for each in every if each is not None)]
    found = []
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and isShown(each.name, node):
            found += annotations(each)
    for each in ast.walk(node):
        if isinstance(each, ast.AnnAssign):
            name = getattr(each.target, "attr", getattr(each.target, "id", "_"))
            found += [each.annotation] if isShown(name, node) else []
    return found


def shown(value):
    """
    Return whatever of ours the annotations of something name.
    """
    names = {
        part.id
        for annotation in annotations(definition(value))
        for part in ast.walk(annotation or ast.Pass())
        if isinstance(part, ast.Name)
    }
    scope = vars(inspect.getmodule(value))
    found = [scope[name] for name in names if name in scope]
    ours = [each for each in found if getattr(each, "__module__", "").startswith("txtableflip")]
    # What an application has in its place is its own.
    return [each for each in ours if not isinstance(each, TypeVar)]


def withBases(value):
    """
    Return a class and those of ours that it inherits from, or a function alone.
    """
    classes = getattr(value, "__mro__", [value])
    return [each for each in classes if each.__module__.startswith("txtableflip")]


@pytest.mark.parametrize("name", sorted(PUBLIC), ids=".".join)
def test_what_a_public_signature_names_is_public(name):
    """
    Whatever the annotations of something public name can be imported from a public
    module, so that an application can annotate what it is given.
    """
    named = [each for value in withBases(PUBLIC[name]) for each in shown(value)]
    hidden = {each.__name__ for each in named if each not in PUBLIC.values()}
    assert hidden == set()


def test_the_names_that_an_upgrader_gives_are_found():
    """
    The test above sees what is in attributes, properties, and methods' results.
    """
    bases = withBases(txtableflip.Upgrader)
    found = {each.__name__ for value in bases for each in shown(value)}
    assert found == {
        *("Changes", "Fds", "InheritableEndpoint", "OpenConnection", "StopHandler", "Work"),
    }
