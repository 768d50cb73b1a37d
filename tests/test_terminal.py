"""How commands end: one line for a mistake, an exit code, and of several ranks the one that has something to tell."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from rich.table import Table
from running import TINY, command, script

from zorse.__main__ import COMMANDS as BY_NAME
from zorse.errors import OneRankError, TooManyCorrupt, TransientError, UserError
from zorse.invocation import NAMES
from zorse.terminal import COMMANDS, STOPPED, plain_console, printable, protect_terminal, report_console, run_command


def ended(command, capsys):
    """(exit code, stderr)"""
    with pytest.raises(SystemExit) as end:
        run_command(command)
    return end.value.code, capsys.readouterr().err


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("no image\n  there; give one"), 2, "error: no image there; give one\n"),
        (TooManyCorrupt("too many"), 3, "error: too many\n"),
        (TransientError("a server is away"), 1, "error: a server is away\n"),
        (OneRankError("a damaged shard"), 2, "error: a damaged shard\n"),
        (KeyboardInterrupt(), 130, f"{STOPPED}\n"),
        (KeyboardInterrupt("stopped: 3 of 4"), 130, "stopped: 3 of 4\n"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(error, code, told, capsys):
    assert ended(failing(error), capsys) == (code, told)


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.ENOSPC, "free disk space"), (errno.EACCES, "fix permissions"), (5, "fix")]
)
def test_what_the_system_refuses_names_the_file_and_a_fix(number, fix, capsys):
    code, told = ended(failing(OSError(number, os.strerror(number), "some/file")), capsys)
    assert code == 2 and told.startswith("error: ") and told.count("\n") == 1 and "some/file" in told and fix in told


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_what_a_command_returns_is_its_exit_code(returned, code, capsys):
    assert ended(lambda: returned, capsys) == (code, "")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_of_several_ranks_one_tells(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ended(failing(UserError("every rank sees this")), capsys) == (2, "")
    assert ended(failing(KeyboardInterrupt()), capsys) == (130, "")
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    assert ended(failing(TransientError("this rank alone")), capsys) == (1, "error: this rank alone\n") and left == [1]


NASTY = "a\x1b[31m\rb\x9b2J\u202ec"  # colour, start of the line, clear the screen, write backwards


def test_no_control_character_gets_through(capsys):
    def command():
        print(NASTY, "[/q]")
        print(f"{NASTY}\n\ttwo", file=sys.stderr)
        table = Table("name", title=NASTY)
        table.add_row(f"{NASTY} [/q]")
        report_console().print(NASTY, table)
        raise UserError(f"no {NASTY}")

    with pytest.raises(SystemExit):
        run_command(command)
    out, err = capsys.readouterr()
    shown = r"a\x1b[31m\rb\x9b2J\u202ec"
    assert out.count(shown) == 4 and f"{shown} [/q]" in out and err.startswith(f"{shown}\n\ttwo\nerror: no a")
    assert printable(out) == out


def test_progress_bars_of_libraries_and_colours_of_tables_get_through(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    protect_terminal()
    for text in ("\rhalf", "\n\x1b[A", "\r\x1b[31m"):
        sys.stdout.write(text)
    assert terminal.buffer.getvalue() == b"\rhalf\n\x1b[A\r\\x1b[31m"
    console = plain_console(file=Terminal(), force_terminal=True, color_system="standard")
    console.print("text [bold]", style="red")
    assert console.file.getvalue() == "\x1b[31mtext [bold]\x1b[0m\n"


@pytest.mark.parametrize("arguments", [["--oops", "[/q]"], ["--log-every", "[/q]"], ["--oops", NASTY]])
def test_what_is_wrong_with_options_is_told_as_it_is(arguments):
    done = script("pipeline/train.py", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr and printable(done.stderr) == done.stderr


def test_a_reader_that_went_away_is_no_mistake(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text("from zorse.terminal import run_command\nrun_command(lambda: print('x' * 1_000_000))\n")
    source = Path(__file__).parents[1] / "pipeline"
    line = f"(PYTHONPATH={source} {sys.executable} {script}; echo $? > {tmp_path}/code) | head -c 1 > /dev/null"
    assert os.system(line) == 0 and (tmp_path / "code").read_text() == "141\n" and capfd.readouterr().err == ""


def test_a_program_that_uses_zorse_has_its_lines_in_its_log_and_can_silence_them(shards, tmp_path):
    """Python, as a program of somebody's would be: nothing on its terminal that it did not ask for."""
    program = """
import logging, sys
from zorse.config.command_line import parse
from zorse.runs.watchdog import Watchdog
from zorse.training.trainer import train
if sys.argv[1] == "log":
    logging.basicConfig(level=logging.INFO, filename=sys.argv[2], format="%(name)s %(levelname)s %(message)s")
else:
    logging.getLogger("zorse").setLevel(logging.ERROR)
config = parse(sys.argv[3:])
watchdog = Watchdog(0, config.compute.step_timeout)
assert train(config, watchdog) == 0
"""
    options = [*TINY, "--epochs", "0.2", "--decay-epochs", "0", "--log-every", "1", "--data", shards]
    (tmp_path / "program.py").write_text(program)
    for kind in ("log", "silent"):
        words = [sys.executable, tmp_path / "program.py", kind, tmp_path / "lines", *options, "--out", tmp_path / kind]
        done = command(words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    told = (tmp_path / "lines").read_text()
    assert f"zorse.run INFO starting {tmp_path}/log, at 0 of 2 pairs" in told and "2/2 pairs" in told


def test_commands_in_a_message_are_found_whole():
    assert tuple(BY_NAME) == NAMES

    def found(line):
        return [match[0] for match in COMMANDS.finditer(line)]

    assert found("not found; make it with: .venv/bin/zorse shard --a x --out 'a and b'") == [
        ".venv/bin/zorse shard --a x --out 'a and b'"
    ]
    assert found("give another --out, or run zorse shard index; then --data") == ["zorse shard index;"]
    assert found("no such option: --oops; python pipeline/train.py --help explains it") == [
        "python pipeline/train.py --help"
    ]
    assert found("gradio is not installed; run: pip install gradio") == ["pip install gradio"]
    assert not found("runs/cc-zorse holds a run with other options") and not found("/a/zorse has")
    # A value of any length is looked through in no time, which a search that starts anew at each letter is not.
    assert found(f"error: {'python' * 20_000}: not here; run make install") == ["make install"]
