"""What a person sees at 60, 80 and 120 columns: progress whose counts are whole, help and errors broken at words."""

import io
import os
import pty
import subprocess
import sys
from itertools import pairwise

import pytest
from rich.text import Text
from running import ALIKE, ROOT

from zorse.runs.progress import Display
from zorse.terminal import plain_console

RECORD = {
    "pairs": 123456, "pairs_per_second": 3.91, "epoch": 92.7, "adversarial_a_to_b": 0.31, "discriminator_a": 0.2,
    "cycle_a": 0.12, "identity_a": 0.4, "data_wait": 0.02,
}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120])
def test_counts_rate_and_time_left_are_whole_and_losses_stand_below(width, monkeypatch):
    shown = io.StringIO()
    console = plain_console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("zorse.runs.progress.plain_console", lambda **_: console)
    monkeypatch.setattr("zorse.runs.progress.is_command", lambda: True)
    display = Display(266_800)
    display.status(RECORD)
    for part in display.bar.get_renderables():
        console.print(part)
    first, second = (Text.from_ansi(line).plain for line in shown.getvalue().splitlines()[:2])
    assert first.endswith("123,456/266,800 pairs 46 % 3.9 pairs/s  10:11:01 left") and len(first) <= width
    assert second.startswith("epoch 92.70  G 0.310  D 0.200  cycle 0.120  identity 0.") and len(second) <= width - 3
    # Between steps it says what it does, and a last batch that is larger than what is left takes no negative time.
    display.doing("evaluating test images")
    display.status(RECORD | {"pairs": 266_802})
    first, second = display.bar.get_renderables()
    shown.truncate(0)
    console.print(first)
    assert "0:00:00 left" in shown.getvalue() and second.plain == "evaluating test images"
    display.advance(266_802)
    assert [*display.bar.get_renderables()][1].plain.startswith("epoch")
    # Ctrl-C is answered in the bar, not above it, where the next refresh would wipe the answer away.
    display.stopping("stopping after this step")
    display.doing("evaluating test images")
    assert [*display.bar.get_renderables()][1].plain == "stopping after this step"


def on_terminal(width, *words):
    """What a command shows on a terminal of that width, by lines, and its exit code."""
    ours, theirs = pty.openpty()
    env = {**os.environ, **ALIKE, "COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    how = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": env, "cwd": ROOT}
    with subprocess.Popen([sys.executable, "-m", "zorse", *words], **how) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # its last end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n").splitlines(), running.returncode


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["train", "shard", "translate"])
def test_help_fits_and_no_sentence_is_torn(name, width):
    lines, code = on_terminal(width, name, "--help")
    assert code == 0 and max(map(len, lines)) <= width
    # Where an option's text goes on in the next line, that line's first word did not fit.
    column = next(line.find("show this help") for line in lines if "show this help" in line)
    boxed = [line[:-1].rstrip() for line in lines if line.startswith("│")]
    for line, after in pairwise(boxed):
        if len(line) > column and line[column - 2 : column] == "  " and after[1:column].isspace():
            assert len(line) + 1 + len(after[column:].split()[0]) > width - 2, (line, after)


@pytest.mark.parametrize("width", [60, 80])
def test_errors_break_between_words_and_commands_are_left_whole(width):
    lines, code = on_terminal(width, "train", "--lr", "0", "--data", "nowhere")
    assert code == 2 and lines == ["error: --lr 0.0: must be greater than 0"]
    lines, code = on_terminal(width, "shard", "--a", "docs")
    assert code == 2 and max(map(len, lines)) <= width
    assert " ".join(lines).startswith("error: --a and --b go together, and --test-a and --test-b with them; give both")
    lines, code = on_terminal(width, "train", "--data", "a folder that is not here")
    assert code == 2 and "a folder that is not here/manifest.json: not found" in " ".join(lines)
    assert lines[-1].endswith("shard --a DIR --b DIR --out 'a folder that is not here'") and "with: " not in lines[-1]
    assert all(len(line) <= width for line in lines[:-1])
