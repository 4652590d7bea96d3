"""Settings read from plain mappings into frozen dataclasses; every mistake names its key and a remedy.

A package declares its settings as one dataclass (fields documented by the string below each), config.py reads
one TOML file and calls `fill`. Field types understood: bool, int, float, str, Seconds, Octets, Enum members by
value, tuples and mappings of these, `X | None`, and nested dataclasses.
"""

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from gatepost.base.units import Octets, Seconds, parse_octets, parse_seconds

S = TypeVar("S")


class BadSetting(ValueError):
    """A value that cannot stand: `path` is the dotted key, `problem` a sentence, `remedy` another."""

    def __init__(self, path: tuple[str | int, ...], problem: str, remedy: str = "") -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.path = path
        self.problem = problem
        self.remedy = remedy


def fill(kind: type[S], given: Mapping[str, object], path: tuple[str | int, ...] = ()) -> S:
    """Build a `kind` from TOML values; raises BadSetting."""
    assert dataclasses.is_dataclass(kind)
    hints = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(sorted(known))
            raise BadSetting((*path, key), "there is no such setting", hint)
    values = {key: convert(hints[key], value, (*path, key)) for key, value in given.items()}
    for name, field in known.items():
        bare = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if bare and name not in values:
            raise BadSetting((*path, name), "it is missing", "it has no default that would be right for everybody")
    try:
        return kind(**values)
    except BadSetting:
        raise
    except ValueError as wrong:
        raise BadSetting(path, str(wrong)) from wrong


def convert(hint: Any, value: object, path: tuple[str | int, ...]) -> Any:  # Any: a type expression, any of them
    """Turn one TOML value into what the type hint says; raises BadSetting."""
    if hint is Seconds:
        return _amount(value, parse_seconds, (int, float), path)
    if hint is Octets:
        return _amount(value, parse_octets, (int,), path)
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _either(get_args(hint), value, path)
    if origin is tuple:
        return _sequence(get_args(hint)[0], value, path)
    if origin in (Mapping, dict):
        return _mapping(get_args(hint)[1], value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise BadSetting(path, f"{value!r} is not a table of settings")
        return fill(hint, value, path)
    return _plain(hint, value, path)


def _plain(hint: Any, value: object, path: tuple[str | int, ...]) -> object:
    if hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = [member.value for member in hint]
        if value not in choices:
            raise BadSetting(path, f"{value!r} is not one of {', '.join(map(repr, choices))}")
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a string in quotes"}
        raise BadSetting(path, f"{value!r} is not {names.get(hint, hint)}")
    return value


def _amount(value: object, parse: Any, numbers: tuple[type, ...], path: tuple[str | int, ...]) -> object:
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError as wrong:
            raise BadSetting(path, str(wrong)) from wrong
    if isinstance(value, bool) or not isinstance(value, numbers):
        raise BadSetting(path, f"{value!r} is not an amount")
    assert isinstance(value, int | float)
    if value < 0:
        raise BadSetting(path, f"{value!r} is less than nothing")
    return value


def _either(hints: tuple[Any, ...], value: object, path: tuple[str | int, ...]) -> object:
    problems = []
    for hint in hints:
        if hint is NoneType:
            continue
        try:
            return convert(hint, value, path)
        except BadSetting as wrong:
            problems.append(wrong)
    raise problems[0] if len(problems) == 1 else BadSetting(path, " and ".join(p.problem for p in problems))


def _sequence(hint: Any, value: object, path: tuple[str | int, ...]) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise BadSetting(path, f"{value!r} is not a list", f"write [{value!r}]")
    return tuple(convert(hint, each, (*path, at)) for at, each in enumerate(value))


def _mapping(hint: Any, value: object, path: tuple[str | int, ...]) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise BadSetting(path, f"{value!r} is not a table")
    return {str(key): convert(hint, each, (*path, str(key))) for key, each in value.items()}


def field_notes(kind: type) -> dict[str, str]:
    """Return the string below each field of a settings class: its documentation."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0]
    assert isinstance(body, ast.ClassDef)
    notes: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    notes[field.target.id] = inspect.cleandoc(text)
                case _:
                    pass
    return notes
