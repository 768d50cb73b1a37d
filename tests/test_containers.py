"""launch/Dockerfile and launch/apptainer.def: their install lines are run, in a folder in place of a container.

What they would download is borrowed from the environment of the tests, and what apt would install is simulated.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from running import ROOT, command

DOCKER, APPTAINER = ROOT / "launch" / "Dockerfile", ROOT / "launch" / "apptainer.def"


def docker_lines():
    return re.findall(r"^RUN (.*)$", DOCKER.read_text(), re.MULTILINE)


def apptainer_lines():
    (post,) = re.findall(r"^%post\n((?:    .*\n)+)", APPTAINER.read_text(), re.MULTILINE)
    return [line.strip() for line in post.splitlines()]


def tracked(folder):
    """The project's files as git has them, with what is not committed yet."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_the_install_lines_make_a_working_zorse(tmp_path):
    first, second = docker_lines(), apptainer_lines()
    assert first[0] == second[0] and second[-1] == f"cd /zorse && {first[-1]}" and len(first) == 2
    project = tracked(tmp_path / "zorse")
    # Libraries that pip finds there already, in place of 6 GB from the network.
    assert command([sys.executable, "-m", "venv", project / ".venv"]).returncode == 0
    (site,) = (project / ".venv").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    done = command(["sh", "-euc", f"cd {project}\n{first[-1]} PYTHON={sys.executable}"])
    assert done.returncode == 0, done.stderr
    done = command(["zorse", "--version"], cwd=tmp_path, PATH=f"{project}/.venv/bin:{os.environ['PATH']}")
    assert done.returncode == 0 and done.stdout.startswith("zorse "), done.stderr
    found = command([project / ".venv" / "bin" / "python", "-c", "import zorse; print(zorse.__file__)"], cwd=tmp_path)
    assert found.stdout.startswith(str(project))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt here")
def test_what_they_install_by_apt_exists():
    (packages,) = re.findall(r"--no-install-recommends ([a-z+ ]+) &&", docker_lines()[0])
    if command(["apt-cache", "show", "make"]).returncode:
        pytest.skip("no lists of packages")
    done = command(["apt-get", "install", "--simulate", "--no-install-recommends", *packages.split()])
    assert done.returncode == 0, done.stderr


def test_the_command_is_the_one_that_they_start():
    assert 'ENTRYPOINT ["zorse"]' in DOCKER.read_text() and 'exec zorse "$@"' in APPTAINER.read_text()
    paths = [re.search(r"PATH=(\S+)", path.read_text())[1] for path in (DOCKER, APPTAINER)]
    assert paths == ["/zorse/.venv/bin:$PATH"] * 2
