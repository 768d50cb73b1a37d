"""Parsing of options by tyro, with help that is wrapped at words, and options under the names that they have now."""

import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TypeVar
from unittest.mock import patch

import tyro

from zorse.option_mistakes import check_values, told_in_a_line
from zorse.terminal import itself, printable
from zorse.version import __version__

T = TypeVar("T")


def parse_options(kind: type[T] | Callable[..., T], arguments: list[str], description: str | None = None, **how) -> T:
    """The options in `arguments`; exits after help or the version. Raises UserError for options that cannot be read.

    description: by default the docstring. Its paragraphs are filled to the width of the terminal, but for those whose
    lines begin with a space. how: for tyro.cli.
    """
    if "--version" in arguments:
        print(f"zorse {__version__}")
        sys.exit(0)
    check_values(kind, arguments)
    filled = _filled(inspect.cleandoc(description or kind.__doc__))
    with _colours_of_help(arguments), _line_breaks_of_ours(filled), told_in_a_line(kind, arguments):
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


def with_new_names(arguments: list[str], renamed: dict[str, str]) -> list[str]:
    """Arguments with the options that were renamed under their new names; renamed: {"--old": "--new"}.

    Aliases of the parser would do, but --help would then show the old names first.
    """
    parts = (argument.partition("=") for argument in arguments)
    return [renamed.get(name.replace("_", "-"), name) + equals + value for name, equals, value in parts]
