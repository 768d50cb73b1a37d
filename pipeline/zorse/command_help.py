"""Parsing of options by tyro, with help that is wrapped at words, mistakes told in a line, and names of old options."""

import dataclasses
import difflib
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Annotated, TypeVar, get_args, get_origin, get_type_hints
from unittest.mock import patch

import tyro

from zorse.errors import UserError
from zorse.terminal import itself, printable
from zorse.version import __version__

T = TypeVar("T")
NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}


def parse_options(kind: type[T] | Callable[..., T], arguments: list[str], description: str | None = None, **how) -> T:
    """The options in `arguments`; exits after help or the version. Raises UserError for options that cannot be read.

    description: by default the docstring. Its paragraphs are filled to the width of the terminal, but for those whose
    lines begin with a space. how: for tyro.cli.
    """
    if "--version" in arguments:
        print(f"zorse {__version__}")
        sys.exit(0)
    filled = _filled(inspect.cleandoc(description or kind.__doc__))
    with _colours_of_help(arguments), _line_breaks_of_ours(filled), _mistakes_in_a_line(kind, arguments):
        return tyro.cli(kind, args=arguments, description=filled, **how)


def _filled(text: str) -> str:
    width = shutil.get_terminal_size().columns
    parts = text.strip().split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), width) for part in parts)


@contextmanager
def _colours_of_help(arguments: list[str]) -> Iterator[None]:
    """Let the colours of help and errors through, unless an argument that they may repeat holds control characters."""
    if any(printable(argument) != argument for argument in arguments):
        yield
        return
    with redirect_stdout(itself(sys.stdout)), redirect_stderr(itself(sys.stderr)):
        yield


@contextmanager
def _line_breaks_of_ours(filled: str) -> Iterator[None]:
    """Have tyro keep the lines of a filled description, and take an option's docstring for one paragraph.

    It would join the former, and keep the line breaks of the latter wherever a line is indented.
    """
    from tyro import _docstrings, _strings

    joined, read = (
        getattr(_strings, "remove_single_line_breaks", None),
        getattr(_docstrings, "get_field_docstring", None),
    )
    if joined is None or read is None:  # in another version; help is then less well set
        yield
        return

    def unless_filled(text: str) -> str:
        return text if text == filled else joined(text)

    def paragraph(*arguments) -> str | None:
        text = read(*arguments)
        return text and " ".join(text.split())

    with (
        patch.object(_strings, "remove_single_line_breaks", unless_filled),
        patch.object(_docstrings, "get_field_docstring", paragraph),
    ):
        yield


def _mistakes_in_a_line(kind: type | Callable, arguments: list[str]) -> AbstractContextManager:
    """Have options that cannot be read raise UserError, in place of tyro's box of several lines."""
    try:
        from tyro import _errors
    except ImportError:  # in an older version; its box says as much
        return nullcontext()

    def refuse(event: _errors.ParseErrorEvent) -> None:
        match event:
            case _errors.MissingArgs(missing_arguments=missing):
                what = f"missing: {', '.join(_as_typed(one.arg) for one in missing)}"
            case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
                what = f"{_name(argument)} {value}: choose one of {', '.join(choices)}"
            case _errors.BadValue(argument=argument, reason="too_few_values") if not argument.is_positional():
                what = f"{_name(argument)} needs a value: {_as_typed(argument)}"
            case _errors.InstantiationFailure(argument=argument, message=message) if argument is not None:
                number = NUMBERS.get(argument.lowered.metavar)
                fix = f" needs {number}, not {message.rpartition(': ')[2]}" if number else f": {message}"
                what = f"{_name(argument)}{fix}"
            case _errors.UnrecognizedArgs(tokens=tokens):
                what = _unknown(tokens, option_names(kind))
            case _errors.BadValue():  # an option that is none, where a positional argument may stand
                what = _unknown(arguments, option_names(kind))
            case _:
                return  # of a kind that our options do not have: tyro's box
        raise UserError(f"{what}; {event.prog} --help explains the options")

    return _errors.on_parse_error(refuse)


def _name(argument) -> str:
    """What an argument of tyro's is called: the option, or what stands for a positional one in the help."""
    return argument.lowered.metavar if argument.is_positional() else argument.lowered.name_or_flags[0]


def _as_typed(argument) -> str:
    """An argument of tyro's with its value."""
    return _name(argument) if argument.is_positional() else f"{_name(argument)} {argument.lowered.metavar}"


def _unknown(arguments: list[str], names: list[str]) -> str:
    """What to say of arguments of which the first option is none of `names`, or which are too many."""
    options = [argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("-")]
    unknown = [option for option in options if option not in names and option.replace("--no-", "--", 1) not in names]
    if not unknown:
        return f"unexpected: {' '.join(arguments)}"
    near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.75)
    return f"no such option: {unknown[0]}{f'; did you mean {near[0]}?' if near else ''}"


def option_names(kind: type | Callable) -> list[str]:
    """The names of all options that `kind` stands for, such as --batch-size, those of its groups among them."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    names = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            names += option_names(hint)
        else:
            given = [part for part in get_args(hint) if hasattr(part, "aliases")]  # by tyro.conf.arg
            name = next((part.name for part in given if part.name), name)
            names += [f"--{name.replace('_', '-')}", *(alias for part in given for alias in part.aliases or ())]
    return names


def with_new_names(arguments: list[str], renamed: dict[str, str]) -> list[str]:
    """Arguments with the options that were renamed under their new names; renamed: {"--old": "--new"}.

    Aliases of the parser would do, but --help would then show the old names first.
    """
    parts = (argument.partition("=") for argument in arguments)
    return [renamed.get(name, name) + equals + value for name, equals, value in parts]
