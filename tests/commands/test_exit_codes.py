"""What each command gives its shell after a mistake. Other tests make their mistakes in the process of the tests."""

import sys

import pytest
from running import ROOT, command

MISTAKES = {  # what is wrong, and a word of what is said about it
    "pipeline/train.py": (["--lr", "0"], "--lr"),
    "pipeline/doctor.py": (["--data", "nowhere"], "nowhere"),
    "pipeline/translate.py": (["nowhere", "x", "y", "--direction", "a2b"], "x"),
    "pipeline/evaluate.py": (["nowhere"], "nowhere"),
    "pipeline/export.py": (["nowhere", "out"], "nowhere"),
    "pipeline/report.py": (["nowhere"], "nowhere"),
    "pipeline/app.py": (["nowhere"], "nowhere"),
    "data_prep/shard.py": (["--source", "nowhere"], "nowhere"),
    "data_prep/demo.py": (["file/out"], "file"),
}


def test_every_command_is_tried():
    scripts = [path for folder in ("pipeline", "data_prep") for path in (ROOT / folder).glob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in scripts} == MISTAKES.keys()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, name):
    options, word = MISTAKES[name]
    (tmp_path / "file").touch()
    done = command([sys.executable, ROOT / name, *options], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and word in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
