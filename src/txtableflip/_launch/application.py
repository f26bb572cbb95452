"""
Finds what C{--app} names.
"""

from __future__ import annotations

import importlib
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.plugin import getPlugins
from twisted.python import usage

from txtableflip.errors import TableflipError

_ATTRIBUTES = ("application", "service", "makeService")


class ApplicationError(TableflipError):
    """
    C{--app} does not name an application: see the message for what to write.
    """


def findApplication(name: str, arguments: Sequence[str], parent: Any) -> Callable[[], object]:
    """
    Find an application by the name that the user gave it.

    @param name: a twistd command, a C{.tac} or C{.py} file, a module, or
        C{module:attribute}.
    @param arguments: the options of the application, if it takes any.
    @param parent: twistd's own options.
    @return: what makes the application: something that L{IService} can adapt.
    @raise ApplicationError: if there is none of that name, or it is not an application.
        Exceptions of the user's own code are raised as they are.
    """
    command = _findCommand(name)
    if command is not None:
        return _asTwistd(command, arguments, parent)
    attribute: str | None = None
    if name.endswith((".tac", ".py")):
        names = _run(name)
    else:
        moduleName, colon, attribute = name.partition(":")
        if colon and not (moduleName and attribute):
            raise ApplicationError(f"--app {name}: write module:attribute")
        names = vars(_import(name, moduleName))
    value = _choose(name, names, attribute)
    if value is names.get("makeService") and "Options" in names:
        return _withOptions(name, names["Options"], value, arguments, parent)
    if arguments:
        raise ApplicationError(
            f"--app {name}: it takes no options, and was given {' '.join(arguments)}"
        )
    return lambda: _call(name, value)


def _findCommand(name: str) -> Any:
    """
    @return: the maker of a twistd command, if there is one of that name.
    """
    if name == "tableflip":
        raise ApplicationError("--app tableflip would run itself: name your application")
    return next((maker for maker in getPlugins(IServiceMaker) if maker.tapname == name), None)


def _asTwistd(command: Any, arguments: Sequence[str], parent: Any) -> Callable[[], object]:
    """
    Run a twistd command such that it finds in twistd's options what it would find if
    it had been named there itself: some look up their configuration by that.
    """
    name = command.tapname
    ours = parent.subCommand, getattr(parent, "subOptions", None)

    def makeOptions() -> Any:
        options = command.options()
        parent.subCommand, parent.subOptions = name, options
        return options

    try:
        make = _withOptions(name, makeOptions, command.makeService, arguments, parent)
        its = parent.subCommand, parent.subOptions
    finally:
        # twistd needs them before it has called our makeService.
        parent.subCommand, parent.subOptions = ours

    def makeService() -> object:
        parent.subCommand, parent.subOptions = its
        return make()

    return makeService


def _withOptions(
    name: str, makeOptions: Any, makeService: Any, arguments: Sequence[str], parent: Any
) -> Callable[[], object]:
    """
    Parse the options of a twistd command, as twistd would.
    """
    options = makeOptions()
    options.parent = parent
    try:
        options.parseOptions(list(arguments))
    except usage.UsageError as error:
        raise ApplicationError(f"--app {name}: {error}") from error
    return lambda: makeService(options)


def _run(path: str) -> dict[str, Any]:
    """
    @return: the names in a file that twistd C{-y} could run.
    """
    if not os.path.isfile(path):
        raise ApplicationError(f"--app {path}: there is no such file in {os.getcwd()}")
    return runpy.run_path(path)


def _import(name: str, moduleName: str) -> Any:
    # Modules in the directory where twistd is run can be imported, as by a .tac file.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(moduleName)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{moduleName}.".startswith(f"{error.name}."):
            raise
        raise ApplicationError(
            f"--app {name}: there is no twistd command of that name, and no module "
            f"{error.name} in {os.getcwd()} or on the path"
        ) from error


def _choose(name: str, names: dict[str, Any], attribute: str | None) -> Any:
    """
    @return: the named attribute, or the first of the usual ones.
    """
    if attribute:
        if attribute not in names:
            raise ApplicationError(f"--app {name}: the module has no attribute {attribute}")
        return names[attribute]
    for usual in _ATTRIBUTES:
        # Twisted has modules of these names, which applications import.
        if usual in names and not isinstance(names[usual], ModuleType):
            return names[usual]
    raise ApplicationError(
        f"--app {name}: it has none of {', '.join(_ATTRIBUTES)}: add one, or write "
        f"module:attribute"
    )


def _call(name: str, value: Any) -> object:
    """
    @return: an application, or what a function that makes one returns.
    """
    if IService(value, None) is None and callable(value):
        try:
            inspect.signature(value).bind()
        except TypeError as error:
            raise ApplicationError(
                f"--app {name}: a function is called without arguments, and this one has "
                f"{error}"
            ) from error
        value = value()
    if IService(value, None) is None:
        raise ApplicationError(
            f"--app {name}: {value!r} is not a service, an Application or a function that "
            f"returns one"
        )
    return value
