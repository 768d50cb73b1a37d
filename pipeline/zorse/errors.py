"""What a user is told in one line instead of a traceback, and by whom."""


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong and what to do. Entry points print it and exit 2."""


class OneRankError(UserError):
    """A UserError that one rank alone may have met, so that this rank has to print it."""


class TransientError(OneRankError):
    """One that may not come again at another start. The exit code is 1, and batch scripts start again."""


def first_sentence(error: Exception) -> str:
    return str(error).strip().split(". ")[0].splitlines()[0] if str(error).strip() else type(error).__name__
