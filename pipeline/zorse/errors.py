"""Errors that become one line instead of a traceback, with the rank that prints it and the exit code that follows."""


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong and what to do."""

    exit_code = 2


class TooManyCorrupt(UserError):
    """More images are unusable than `--max-corrupt` allows."""

    exit_code = 3


class OneRankError(UserError):
    """A UserError that one rank alone may have met, so that this rank has to print it."""


class TransientError(OneRankError):
    """One that may not come again at another start; batch scripts start again."""

    exit_code = 1


def of_system(error: OSError) -> str:
    """What the system refused, without its number: "PATH: No such file or directory"."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def first_sentence(error: Exception) -> str:
    return str(error).strip().split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__
