"""Zorse as other projects have it, as a wheel and as an editable install: started beside folders of the same names."""

import json
import os
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from prep_tools import make_folder
from running import ROOT, TINY, command

from zorse import __version__

# As `python -m torch.distributed.run -m probe` starts it, whose first place to look for modules is the folder it is in.
PROBE = """
import json
import multiprocessing
import sys
from pathlib import Path

import zorse

version, early = zorse.__version__, [name for name in ("torch", "accelerate") if name in sys.modules]


def seen_by_a_worker(_):
    import zorse.files
    import zorse_prep.plan

    return [str(Path(module.__file__).parent) for module in (zorse, zorse_prep)]


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        folders = pool.apply(seen_by_a_worker, (0,))
    from zorse import Translator

    found = {"version": version, "early": early, "folders": folders, "of": Translator.__module__}
    Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from this checkout as pip does it, but with the hatchling that is here."""
    folder = tmp_path_factory.mktemp("wheel")
    program = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    done = command([sys.executable, "-c", program, folder])
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_what_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "zorse/py.typed",
        "zorse_prep/py.typed",
        "zorse/runs/report.html",
        "zorse/runs/comparison.html",
        "zorse/commands/train.py",
    } <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"zorse", "zorse_prep"}  # and zorse-....dist-info


def test_the_wheel_in_a_fresh_environment(wheel, tmp_path):
    """By the command that it installs, from two folders to a translation; it borrows the libraries that are here."""
    home, here = tmp_path / "venv", make_folder(tmp_path / "pets", {"trainA": 9, "trainB": 9})
    assert command([sys.executable, "-m", "venv", "--without-pip", home]).returncode == 0
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))  # no .pth in there is read, so no zorse either
    zorse = home / "bin" / "zorse"
    assert command([home / "bin" / "python", "-c", "import zorse"]).returncode == 1
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet"]
    done = command([*pip, "--no-deps", "--no-index", wheel])
    assert done.returncode == 0, done.stderr

    def run(*words):
        done = command([zorse, *words], cwd=here)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

    assert run("--version") == f"zorse {__version__}\n"
    told = run(
        "train", "--a", "trainA", "--b", "trainB", "--out", "run", *TINY, "--epochs", "0.3", "--decay-epochs", "0"
    )
    assert f"next: {zorse} translate run IN OUT" in told
    run("translate", "run", "trainA", "made", "--direction", "a2b")
    assert len(list((here / "made").iterdir())) == 9


@pytest.mark.parametrize("installed", ["wheel", "editable"])
def test_it_is_found_beside_folders_of_the_same_names(request, tmp_path, installed):
    """Its version without torch, its Translator, by workers that are spawned, and by what torchrun starts."""
    here = tmp_path / "elsewhere"
    for folder in ("data_prep", "zorse", "pipeline"):  # zorse: a clone, which is a folder without __init__.py
        (here / folder).mkdir(parents=True)
    (here / "data_prep" / "__init__.py").touch()
    (here / "pipeline.py").touch()
    (here / "probe.py").write_text(PROBE)
    paths = os.environ.get("PYTHONPATH", "")
    if installed == "wheel":
        target = tmp_path / "target"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
        done = command([*pip, "--target", target, request.getfixturevalue("wheel")])
        assert done.returncode == 0, done.stderr
        paths = str(target)
        expected = [str(target / "zorse"), str(target / "zorse_prep")]
    else:
        expected = [str(ROOT / "pipeline" / "zorse"), str(ROOT / "data_prep" / "zorse_prep")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]
    done = command([*torchrun, "probe", tmp_path / "found.json"], cwd=here, PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == {"version": __version__, "early": [], "folders": expected, "of": "zorse.inference.translator"}


def test_a_checkout_works_without_being_installed_or_says_what_is_missing(tmp_path):
    """Beside all that it needs, and without any of it; its own installation is the one thing that is hidden."""
    for folder in ("pipeline", "data_prep"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "zorse" not in path.name and "webdataset" not in path.name:  # which only reads shards
            (packages / path.name).symlink_to(path)
    source = make_folder(tmp_path / "pets", {"trainA": 1, "trainB": 1})
    shard = [sys.executable, "-S", "data_prep/shard.py", "--source", source, "--out", tmp_path / "shards"]
    for arguments in (shard, [sys.executable, "-S", "pipeline/translate.py", "--help"]):
        done = command(arguments, cwd=tmp_path, PYTHONPATH=str(packages))
        assert done.returncode == 0, done.stderr
        missing = command(arguments, cwd=tmp_path, PYTHONPATH="")
        assert missing.returncode == 1 and missing.stderr.count("\n") == 1 and "is not installed; run" in missing.stderr
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text())["tool"]["webdataset"] is None
