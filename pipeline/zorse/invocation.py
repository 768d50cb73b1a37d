"""How our commands are called in the shell that started this process: for usage lines, and for hints to paste there."""

import shlex
import shutil
import sys
from pathlib import Path

NAMES = ("shard", "train", "translate", "evaluate", "report", "export", "doctor", "app", "demo")  # of our commands
DATA_PREP = ("shard", "demo")  # those whose scripts lie in data_prep/
_started: list[str] = []  # by zorse.__main__, with the command's name


def start_by_zorse(name: str) -> None:
    """Note that this process is `zorse NAME` or `python -m zorse NAME`, and no script or other program."""
    _started.append(name)


def by_zorse() -> bool:
    """Whether `zorse NAME` or `python -m zorse NAME` started this process."""
    return bool(_started)


def usage(name: str) -> str:
    """The way in which this command was called, for the first line of its help: "zorse train", or its script."""
    folder = "data_prep" if name in DATA_PREP else "pipeline"
    return f"zorse {name}" if by_zorse() else f"python {folder}/{name}.py"


def command_line(name: str, *arguments: object) -> str:
    """A command of ours with its arguments, quoted, that works when it is pasted into this shell.

    That is `zorse NAME ...`, with the path of the program where the shell would not find this one, or the script with
    its Python where Zorse is not installed.
    """
    program, here = Path(sys.executable).with_name("zorse"), Path(__file__).resolve().parents[2]
    script = here / ("data_prep" if name in DATA_PREP else "pipeline") / f"{name}.py"
    python = _as_typed("python", Path(sys.executable))
    if program.is_file():
        words = [_as_typed("zorse", program), name]
    elif script.is_file():
        words = [python, _short(script)]
    else:
        words = [python, "-m", "zorse", name]
    # A path that begins like an option would be read as one.
    given = (f"./{each}" if isinstance(each, Path) and str(each).startswith("-") else str(each) for each in arguments)
    return shlex.join([*words, *given])


def _as_typed(name: str, program: Path) -> str:
    """The name alone where it leads to this very program, and otherwise the program's path."""
    found = shutil.which(name)
    return name if found and Path(found).absolute() == program.absolute() else _short(program)


def _short(path: Path) -> str:
    """Relative to where we are if it lies below, since a person would type that."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
