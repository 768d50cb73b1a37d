"""JSON files, held against the types that they should have: one reader, so that what is behind it meets no other kind.

A type is bool, int, float (finite, an int will do), Measured, str, Path, dict, object, a Literal, a union, list[T],
tuple[T, ...], dict[str, T], Annotated[int, range(...)], a TypedDict (which may have other keys, too), or a dataclass
(which may not; what it lacks has its default). Lists become tuples, and objects dataclasses, where these are asked for.
"""

import dataclasses
import errno
import json
import os
import stat
import types
from functools import cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from zorse.errors import UserError

T = TypeVar("T")
Measured = NewType("Measured", float)  # a number that may be infinite or not a number, as what training measures may
Count = Annotated[int, range(2**62)]
LARGEST = 2**128  # of numbers; what is larger counts or measures nothing, and overflows


class Mismatch(ValueError):
    """A value of another type than it should have; the message names it."""


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises OSError, also for what is not a regular file, which might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def parse(data: bytes | str) -> Any:
    """Parse JSON. Raises ValueError for whatever else it is."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read(path: Path, kind: type[T], fix: str) -> T:
    """A JSON file as a value of a type. Raises FileNotFoundError, and UserError for another kind of file.

    fix: what the user is to do, for the message.
    """
    try:
        return convert(parse(read_bytes(path)), kind)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}; {fix}") from None


def reason(error: OSError | ValueError) -> str:
    """What is wrong with a file that could not be read, in words that follow its name."""
    if isinstance(error, Mismatch):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read ({(error.strerror or str(error)).lower()})"
    return f"is not JSON ({str(error).splitlines()[0]:.100})"


def plain(value: Any) -> Any:
    """What JSON itself has no form for, as `default` of json.dumps: a dataclass as an object, a path as text."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)


def convert(value: Any, kind: type[T], name: str = "") -> T:
    """A parsed value as a value of a type. Raises Mismatch, which calls it `name`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        converted = convert(value, parts[0], name)
        for allowed in parts[1:]:
            if isinstance(allowed, range) and value not in allowed:
                raise Mismatch(f"{called(name)} is {shown(value)}, and must be in {allowed[0]} to {allowed[-1]}")
        return converted
    if origin is NotRequired:
        return convert(value, parts[0], name)
    if origin is Literal:
        if not any(value == each and type(value) is type(each) for each in parts):
            raise Mismatch(f"{called(name)} is {shown(value)}, and must be one of {', '.join(map(str, parts))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in parts:
            return None
        others = [part for part in parts if part is not types.NoneType]
        if len(others) > 1:  # a dataclass, which is an object in JSON, or what is none
            others = [part for part in others if dataclasses.is_dataclass(part) == isinstance(value, dict)]
        return convert(value, others[0], name)
    if dataclasses.is_dataclass(kind) or is_typeddict(kind):
        return _fields(_only(value, dict, name), kind, name)
    if origin is dict:
        _only(value, dict, name)
        return {_text(key, name): convert(each, parts[1], _of(name, key)) for key, each in value.items()}
    if origin in (list, tuple):
        _only(value, list, name)
        return origin(convert(each, parts[0], _of(name, str(number))) for number, each in enumerate(value))
    return _plain(value, kind, name)


def _fields(values: dict, kind: type, name: str) -> Any:
    """A dataclass or a TypedDict."""
    hints, required = _shape(kind)
    if missing := required - values.keys():
        raise Mismatch(f"{called(_of(name, min(missing)))} is missing")
    if dataclasses.is_dataclass(kind) and (unknown := values.keys() - hints.keys()):
        raise Mismatch(f"{called(_of(name, min(unknown)))} is unknown to this version")
    converted = {key: convert(values[key], hint, _of(name, key)) for key, hint in hints.items() if key in values}
    return kind(**converted) if dataclasses.is_dataclass(kind) else {**values, **converted}


@cache
def _shape(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of the fields of a dataclass or a TypedDict, and the names of those that must be there."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        return hints, kind.__required_keys__
    without = [field.default is field.default_factory for field in dataclasses.fields(kind)]  # both are MISSING
    names = [field.name for field in dataclasses.fields(kind)]
    return hints, frozenset(name for name, required in zip(names, without, strict=True) if required)


def _plain(value: Any, kind: type, name: str) -> Any:
    """A number, a string, ..., which is none of the others."""
    if kind in (object, Any):
        return value
    if kind in (float, Measured):
        unlimited = kind is Measured and type(value) is float
        if type(value) not in (int, float) or not (unlimited or abs(value) < LARGEST):  # nor is NaN
            raise Mismatch(f"{called(name)} is {shown(value)}, and must be a number")
        return value
    if kind is int:
        if type(value) is not int or abs(value) >= LARGEST:
            raise Mismatch(f"{called(name)} is {shown(value)}, and must be a whole number")
        return value
    if kind in (str, Path):
        return kind(_text(value, name))
    return _only(value, kind, name)


def _only(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        words = {dict: "an object", list: "a list", bool: "true or false", types.NoneType: "null"}
        raise Mismatch(f"{called(name)} is {shown(value)}, and must be {words[kind]}")
    return value


def _text(value: Any, name: str) -> str:
    """A string that can be printed and be a file's name."""
    try:
        if type(value) is str and b"\0" not in os.fsencode(value):
            return value
    except UnicodeEncodeError:  # half of a pair of surrogates
        pass
    raise Mismatch(f"{called(name)} is {shown(value)}, and must be text")


def _of(name: str, part: str) -> str:
    return f"{name}.{part}" if name else str(part)


def called(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()[:100] if name else "all of it"


def shown(value: Any) -> str:
    """A value in a message: short, in one line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
