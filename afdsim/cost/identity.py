"""What an object of the caller's own is: a digest of the source of its class and of its data, where both can be known.

Two objects with one digest give the same answers, so a cache may let one answer for the other. An object's data is
what pickle would write. Its code is the file of its module and of every module of the caller's that this one uses,
with their constants; of installed packages the name alone counts. There is no digest of what is defined in
``__main__`` (a script, a notebook) or inside a function, nor of a module whose file was edited after its import: the
code that runs is not to be had.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import numpy as np

PLAIN = (bool, int, float, complex, str, type(None), bytes)


class UnknownError(Exception):
    """An object of which no digest can be made; the message says why."""


def name(thing: object) -> str:
    """Return the qualified name of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def label(thing: object) -> str:
    """Return what provenance says of an object: its class, with the beginning of its digest where it has one."""
    try:
        return f"{name(thing)} sha256:{digest(thing)[:12]}"
    except UnknownError:
        return name(thing)


def digest(thing: object) -> str:
    """Return the SHA-256 of an object's class and data, or raise UnknownError."""
    modules: dict[str, ModuleType] = {}
    try:
        told = _told(thing, modules)
    except RecursionError:
        raise UnknownError("it refers to itself") from None
    sources = {each: _source(module) for each, module in sorted(modules.items())}
    return hashlib.sha256(json.dumps([told, sources]).encode()).hexdigest()


def _told(thing: object, modules: dict[str, ModuleType]) -> Any:  # noqa: PLR0911 - a case for every kind
    """Return an object as JSON data; the modules that define its classes join `modules`."""
    match thing:
        case _ if type(thing) in PLAIN:
            return [type(thing).__name__, repr(thing)]
        case list() | tuple() if type(thing) in (list, tuple):
            return [type(thing).__name__, [_told(each, modules) for each in thing]]
        case dict() if type(thing) is dict:
            return ["dict", [[_told(key, modules), _told(value, modules)] for key, value in thing.items()]]
        case set() | frozenset() if type(thing) in (set, frozenset):
            return [type(thing).__name__, sorted(json.dumps(_told(each, modules)) for each in thing)]
        case np.ndarray() if thing.dtype.kind in "biufcSU" and type(thing) is np.ndarray:
            return ["array", thing.dtype.str, thing.shape, hashlib.sha256(thing.tobytes()).hexdigest()]
        case np.number() | np.bool() | np.dtype():
            return [name(thing), repr(thing)]
        case type() | FunctionType() | BuiltinFunctionType():
            return ["name", _defined(thing, modules)]
        case ModuleType():
            _join(thing, modules)
            return ["module", thing.__name__]
        case MappingProxyType():
            return ["mappingproxy", _told(dict(thing), modules)]
        case _:
            return _reduced(thing, modules)


def _reduced(thing: object, modules: dict[str, ModuleType]) -> Any:
    """Return an object as pickle would take it apart."""
    try:
        parts = thing.__reduce_ex__(4)
    except Exception as error:  # whatever a class of the caller's raises there
        raise UnknownError(f"{name(thing)} cannot be pickled ({error})") from None
    for kind in type(thing).__mro__[:-1]:
        _defined(kind, modules)
    if isinstance(parts, str):
        return ["global", parts, name(thing)]
    maker, given, state, items, pairs, *_ = (*parts, None, None, None, None)
    own = [_told(list(each), modules) for each in (items or (), pairs or ())]
    return [name(thing), _told(maker, modules), _told(given, modules), _told(state, modules), own]


def _defined(thing: Any, modules: dict[str, ModuleType]) -> str:
    """Return the name under which a class or a function is found again."""
    home, path = getattr(thing, "__module__", None) or "builtins", thing.__qualname__
    found: Any = sys.modules.get(home)
    if home == "__main__":
        raise UnknownError(f"{path} is defined in a script or notebook; put it into a module")
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not thing and not isinstance(thing, BuiltinFunctionType):
        raise UnknownError(f"{home}.{path} is defined inside a function or was replaced; define it in a module")
    if (module := sys.modules.get(home)) is not None:
        _join(module, modules)
    return f"{home}.{path}"


def _join(module: ModuleType, modules: dict[str, ModuleType]) -> None:
    """Put a module of the caller's and those that it uses among `modules`."""
    if module.__name__ in modules or not _own(module):
        return
    modules[module.__name__] = module
    for value in list(vars(module).values()):
        home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(home, str) and (other := sys.modules.get(home)) is not None:
            _join(other, modules)


def _own(module: ModuleType) -> bool:
    """Whether the caller wrote a module: it is neither installed, nor of Python, nor of afdsim."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "afdsim" or module.__name__ == "__main__":
        return False
    return not any(Path(file).is_relative_to(path) for path in _installed())


def _installed() -> Iterator[str]:
    paths = sysconfig.get_paths()
    yield from (paths[each] for each in ("stdlib", "platstdlib", "purelib", "platlib"))


def _source(module: ModuleType) -> Any:
    """Return the content of a module: its file, and its constants and those of its classes as they are now."""
    try:
        text = Path(str(module.__file__)).read_bytes()
        fresh = list(_codes(compile(text, str(module.__file__), "exec", dont_inherit=True)))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnknownError(f"the source of {module.__name__} cannot be read: {error}") from None
    classes = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    for held in map(vars, (module, *classes)):
        for value in held.values():
            code = getattr(inspect.unwrap(value), "__code__", None) if isinstance(value, FunctionType) else None
            if code is not None and code.co_filename == module.__file__ and code not in fresh:
                raise UnknownError(f"{module.__file__} has changed since it was imported")
    return [hashlib.sha256(text).hexdigest(), *(_constants(vars(each)) for each in (module, *classes))]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a module and of everything that is defined in it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _constants(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted((each, repr(value)) for each, value in held.items() if type(value) in PLAIN and each[:2] != "__")
