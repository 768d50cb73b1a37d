"""README.md and docs/: every link leads somewhere, every command is one, and the README's own steps work as written."""

import re
import shlex
import shutil
import sys

import pytest
import tyro
from running import ROOT, TINY, command, draw

from zorse.config.presets import PRESETS
from zorse.config.schema import Config
from zorse.inference.options import Options as TranslateOptions
from zorse_prep.options import Options as ShardOptions

PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if path.name != "CHANGELOG.md")
WORDS = 1500  # of the README


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def anchors(page):
    return {slug(found) for found in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_a_front_door():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < WORDS
    pages = {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} - {"docs/index.md"}
    assert all(f"]({page})" in text for page in pages)
    assert all(page.removeprefix("docs/") in (ROOT / "docs" / "index.md").read_text() for page in pages)


def lines_of_code(page):
    """The commands in the shell blocks of a page, without comments."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        yield from (line for line in block.splitlines() if shlex.split(line, comments=True))


COMMANDS = [(page, line) for page in PAGES for line in lines_of_code(page)]
SCRIPTS = ("pipeline/train.py", "launch/train.sbatch", "launch/train.sh")
STAGES = ("plan", "write", "finalize", "verify", "stats", "index")


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.stem)
def test_every_command_s_options_exist(page, line):
    """They are parsed, with names and values, as they would be if they were typed."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["zorse", "train"] or words[:2] == ["zorse", "doctor"]:
        tyro.cli(tyro.conf.OmitArgPrefixes[Config], args=words[2:], default=PRESETS["paper"])
    elif script := next((name for name in SCRIPTS if name in words), None):
        tyro.cli(tyro.conf.OmitArgPrefixes[Config], args=words[words.index(script) + 1 :], default=PRESETS["paper"])
    elif words[:2] == ["zorse", "shard"] and words[2] not in STAGES:
        tyro.cli(ShardOptions, args=words[2:])
    elif words[:2] == ["zorse", "translate"]:
        tyro.cli(TranslateOptions, args=words[2:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        known = ("git", "source", "zorse shard", "zorse evaluate", "zorse export", "zorse app", "python train.py")
        assert line.startswith((*known, "docker run", "apptainer ")), line


@pytest.mark.slow
def test_the_readme_s_steps_work_as_written(tmp_path):
    """Train on two folders, translate, evaluate, export: the lines of the README, with tiny networks."""
    draw(tmp_path / "photos" / "horse", 30, seed=1)
    draw(tmp_path / "photos" / "zebra", 30, seed=2)
    shutil.copytree(tmp_path / "photos" / "horse", tmp_path / "photos" / "holiday")
    lines = [
        line for line in lines_of_code(ROOT / "README.md") if "runs/mine" in line and not line.startswith("zorse app")
    ]
    assert [line.split()[1] for line in lines] == ["train", "train", "translate", "evaluate", "export"]
    tiny = [*TINY, "--epochs", "0.2", "--decay-epochs", "0", "--tracker", "none"]
    extra = {"train": tiny, "evaluate": ["--features", "none"], "translate": [], "export": []}
    for line in lines[1:]:
        words = shlex.split(line, comments=True)[1:]
        done = command([sys.executable, "-m", "zorse", *words, *extra[words[0]]], cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
    assert len(list((tmp_path / "translated").iterdir())) == 30
    assert {path.name for path in (tmp_path / "exported").rglob("*")} >= {"README.md"}
