"""Options that cannot be read, told in one line: in place of tyro's boxes, and where tyro would say nothing."""

import dataclasses
import difflib
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from zorse.errors import UserError

Takes = Literal["nothing", "one", "several"]  # values
NUMBERS = {"INT": "a whole number", "FLOAT": "a number", "INT ...": "whole numbers"}
LONGEST, MOST = 80, 5  # characters of an argument, and arguments, that a line repeats


def options_of_kind(kind: type | Callable) -> dict[str, Takes]:
    """All options that a dataclass or a function stands for, such as --batch-size, and how many values each takes.

    Those of its groups are among them, and so are other names that options have.
    """
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    found = {}
    hints = get_type_hints(kind, include_extras=True)
    hints.pop("return", None)  # of a function
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            found |= options_of_kind(hint)
            continue
        bare = hint
        while get_origin(bare) is Annotated:
            bare = get_args(bare)[0]
        takes = "nothing" if bare is bool else "several" if get_origin(bare) is tuple else "one"
        of_tyro = [part for part in get_args(hint) if hasattr(part, "aliases")]
        name = next((part.name for part in of_tyro if part.name), name).replace("_", "-")
        names = [f"--{name}", *(alias for part in of_tyro for alias in part.aliases or ())]
        found |= dict.fromkeys([*names, f"--no-{name}"] if takes == "nothing" else names, takes)
    return found


def check_values(kind: type | Callable, arguments: list[str]) -> None:
    """Raise UserError for a flag with a value, and for an option of several values that has none.

    tyro would take the former's value for a positional argument, and the latter for its default.
    """
    takes = options_of_kind(kind) | {"--help": "nothing", "--version": "nothing"}
    if "--" in arguments:
        arguments = arguments[: arguments.index("--")]
    for argument, after in zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        taken = takes.get(name.replace("_", "-"))
        if taken == "nothing" and equals:
            raise UserError(f"{name} takes no value; leave out ={_short(value)}")
        if taken == "several" and not equals and (after is None or after.startswith("--")):
            raise UserError(f"{name} needs a value; give one, or leave it out")


def told_in_a_line(kind: type | Callable, arguments: list[str]) -> AbstractContextManager:
    """Have tyro raise UserError for options that it cannot read."""
    try:
        from tyro import _errors
    except ImportError:  # in an older version; its box says as much
        return nullcontext()

    def refuse(event: _errors.ParseErrorEvent) -> None:
        match event:
            case _errors.MissingArgs(unrecognized_tokens=tokens) if any(token.startswith("-") for token in tokens):
                what = _unknown(tokens, kind)
            case _errors.MissingArgs(missing_arguments=missing):
                what = f"missing: {', '.join(_with_value(one.arg) for one in missing)}"
            case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
                metavar = argument.lowered.metavar or ""
                among = metavar[1:-1].split(",") if re.fullmatch(r"\{[^{}]*\}", metavar) else choices
                what = f"{_name(argument, arguments)} {_short(value)}: choose one of {', '.join(among)}"
            case _errors.BadValue(argument=argument, reason="too_few_values") if not argument.is_positional():
                what = f"{_name(argument, arguments)} needs a value: {_with_value(argument, arguments)}"
            case _errors.InstantiationFailure(argument=argument, message=message) if argument is not None:
                number, given = NUMBERS.get(argument.lowered.metavar), re.findall("'([^']*)'", message)
                fix = f" needs {number}, not {_short(given[0])}" if number and given else f": {message}"
                what = f"{_name(argument, arguments)}{fix}"
            case _errors.UnrecognizedArgs(tokens=tokens):
                what = _unknown(tokens, kind)
            case _errors.BadValue():  # an option that is none, where a positional argument may stand
                what = _unknown(arguments, kind)
            case _:
                return  # of a sort that our options do not have: tyro's box
        raise UserError(f"{what}; {event.prog} --help explains the options")

    return _errors.on_parse_error(refuse)


def _name(argument, arguments: list[str] = ()) -> str:
    """What an argument of tyro's is called: an option as it was typed, or what the help has for a positional one."""
    if argument.is_positional():
        return argument.lowered.metavar
    names, typed = argument.lowered.name_or_flags, {each.partition("=")[0].replace("_", "-") for each in arguments}
    return next((name for name in names if name in typed), names[0])


def _with_value(argument, arguments: list[str] = ()) -> str:
    """An argument of tyro's and its value, as the help has them."""
    name = _name(argument, arguments)
    return name if argument.is_positional() else f"{name} {argument.lowered.metavar}"


def _unknown(arguments: list[str], kind: type | Callable) -> str:
    """What to say of arguments of which the first option is unknown, or which are too many."""
    names = options_of_kind(kind)
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    unknown = [option for option in options if option.replace("_", "-") not in names]
    if not unknown:
        more = " ..." if len(arguments) > MOST else ""
        return f"unexpected: {' '.join(map(_short, arguments[:MOST]))}{more}"
    near = difflib.get_close_matches(unknown[0].replace("_", "-"), names, n=1, cutoff=0.8)
    return f"no such option: {_short(unknown[0])}{f' (did you mean {near[0]}?)' if near else ''}"


def _short(argument: str) -> str:
    """An argument as it is typed, of which a long one shows its beginning."""
    return shlex.quote(argument if len(argument) <= LONGEST else f"{argument[:LONGEST]}...")
