"""examples/horse2zebra.ipynb, run from top to bottom in an environment of its own, on small data."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from prep_tools import make_folder
from running import ROOT, TINY, command

NOTEBOOK = ROOT / "examples" / "horse2zebra.ipynb"
KERNEL = "fresh"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout to clone")
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    # An environment with libraries but without zorse, which borrows what a notebook's environment has.
    home, here = tmp_path / "venv", tmp_path / "here"
    assert command([sys.executable, "-m", "venv", home]).returncode == 0
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    spec = {"argv": [str(home / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    folder = tmp_path / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec | {"display_name": KERNEL, "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    for name, value in {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1", "ACCELERATE_USE_CPU": "true"}.items():
        monkeypatch.setenv(name, value)
    # What a person would fill in: the address, images, and here options of a short run.
    images = make_folder(tmp_path / "pets", {"trainA": 9, "trainB": 9, "testA": 3, "testB": 3})
    archive = shutil.make_archive(str(tmp_path / "pets"), "zip", images)
    given = {
        '"<repository URL>"': f'"{ROOT}"',
        '"horse2zebra"': f'"--source {archive}"',
        'OPTIONS = ""': f'OPTIONS = "{" ".join(TINY)} --epochs 0.6 --decay-epochs 0 --log-every 1"',
    }
    notebook = nbformat.read(NOTEBOOK, 4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for placeholder, value in given.items():
        assert placeholder in first.source
        first.source = first.source.replace(placeholder, value)
    here.mkdir()
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name=KERNEL, resources={"metadata": {"path": str(here)}}
    )
    client.execute()

    told = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert not any("error: " in text for text in told), told
    version = subprocess.run([home / "bin" / "zorse", "--version"], capture_output=True, text=True).stdout
    assert version.strip() and version.strip() in "".join(told)
    assert any("exit code 0" in text and "is finished at 5 pairs" in text for text in told), told
    assert len(list((here / "translated" / "b2a").iterdir())) >= 3
    # Pictures and pages, where a person would see them.
    shown = [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output
    ]
    assert "\x1b[" not in "".join(told)
    assert sum("image/png" in data for data in shown) == 1 + 3 + 1
    assert sum("iframe" in data.get("text/html", "") for data in shown) >= 2


def test_it_is_committed_without_outputs_and_names_no_address():
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert NOTEBOOK.read_text().count("<repository URL>") == 1 and "://" not in NOTEBOOK.read_text()
