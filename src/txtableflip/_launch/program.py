"""
Finds a program, and runs it in this process as C{python PROGRAM} would.

L{runpy} is not enough: it replaces C{__main__} only while the program's code runs, so that
threads and exit handlers that run after that, or what is pickled then, would find ours.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

from txtableflip.errors import TableflipError

_FIRST_LINES = 200
"""
How much of a program is read to recognise Python, in bytes: an installer that cannot name
it in the first line does so in the second.
"""


class ProgramError(TableflipError):
    """
    What is to be run is not there, or is not a program in Python: see the message.
    """


@dataclass(frozen=True)
class Program:
    """
    What C{__main__} is to be.

    @ivar file: its path, if it has one.
    @ivar spec: how it would be imported again, if it is a module.
    """

    code: CodeType
    file: str | None
    loader: Any
    spec: ModuleSpec | None = None
    package: str | None = None

    def run(self) -> None:
        """
        Run it.  What it raises is raised, and shown as its own.
        """
        main = ModuleType("__main__")
        vars(main).update(
            __file__=self.file,
            __loader__=self.loader,
            __spec__=self.spec,
            __package__=self.package,
            __cached__=self.spec and self.spec.cached,
            __builtins__=builtins,
        )
        sys.modules["__main__"] = main
        exec(self.code, vars(main))  # noqa: S102 - that is what we are for


def runProgram(words: Sequence[str]) -> None:
    """
    Find a program, and run it: C{sys.argv}, C{sys.path} and C{__main__} are its own.

    @param words: as they would follow C{python}: C{-m}, a module and its arguments; or a
        script, by its path or by a name on the path, and its arguments.
    @raise ProgramError: if there is no such program.  Exceptions of the program itself are
        raised as they are, with a traceback that begins with the program.
    """
    try:
        program = _findProgram(words)
        program.run()
    except ProgramError:
        raise
    except BaseException as error:
        _showAsTheirs(error)
        raise


def _findProgram(words: Sequence[str]) -> Program:
    name, *arguments = words
    if name == "-m":
        if not arguments:
            raise ProgramError("-m is to name a module")
        # As Python sets it while it looks for the module.
        sys.argv[:] = ["-m", *arguments[1:]]
        return _findModule(arguments[0])
    path = _findPath(name)
    sys.argv[:] = [path, *arguments]
    path = os.path.abspath(path)
    importer = pkgutil.get_importer(path)
    if importer is not None:
        return _mainOf(path, importer)
    _setPath(os.path.dirname(os.path.realpath(path)))
    return _readScript(path)


def _findPath(name: str) -> str:
    """
    @return: the path of a script, or of a zip file or directory with one in it; one that
        the shell would find, if there is no such file.
    """
    if name.startswith("-"):
        raise ProgramError(f"{name} stands where a program is to be: a script, or -m MODULE")
    if os.path.isfile(name):
        return name
    places = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    found = None if os.sep in name else shutil.which(name, path=places)
    if found is not None:
        return _checkLanguage(found)
    if os.path.isdir(name):
        return name
    raise ProgramError(
        f"there is no program {name}: no such file in {os.getcwd()}, and no such command on "
        "the path (for a module, write -m before it)"
    )


def _checkLanguage(path: str) -> str:
    with open(path, "rb") as file:
        if b"python" not in file.read(_FIRST_LINES):
            raise ProgramError(f"{path} is not a program in Python")
    return path


def _readScript(path: str) -> Program:
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    return Program(code, path, SourceFileLoader("__main__", path))


def _mainOf(path: str, importer: Any) -> Program:
    _setPath(path, isNeeded=True)
    spec = importer.find_spec("__main__")
    if spec is None:
        raise ProgramError(f"{path} has no __main__.py")
    return _load(spec, "__main__", package="")


def _findModule(name: str) -> Program:
    spec = _findSpec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name = f"{name}.__main__"
        spec = _findSpec(name)
    if spec is None or not hasattr(spec.loader, "get_code"):
        raise ProgramError(f"there is no module {name} that can be run")
    program = _load(spec, name, package=spec.parent)
    sys.argv[0] = program.file or name
    return program


def _findSpec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None


def _load(spec: ModuleSpec, name: str, package: str | None) -> Program:
    loader: Any = spec.loader
    code = loader.get_code(name)
    if code is None:
        raise ProgramError(f"{name} has no code that can be run")
    return Program(code, spec.origin, loader, spec, package)


def _setPath(first: str, *, isNeeded: bool = False) -> None:
    """
    Make Python look for modules beside the program, not where this process was started.

    @param isNeeded: whether the program itself is in there, so that this is done even if
        the interpreter was told not to.
    """
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = first
    elif isNeeded:
        sys.path.insert(0, first)


def _showAsTheirs(error: BaseException) -> None:
    """
    Show an error that ends this process without our own frames.
    """
    theirs = error.__traceback__
    while theirs is not None and theirs.tb_frame.f_code.co_filename == __file__:
        theirs = theirs.tb_next
    show = sys.excepthook

    def hook(
        kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        if value is error:
            traceback = theirs
            value.with_traceback(theirs)
        show(kind, value, traceback)

    sys.excepthook = hook
