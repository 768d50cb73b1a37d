"""What the machine has, and what it lacks: packages come as wheels from the folder that `make gpu-pack` filled."""

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VERSIONS = """
import platform, sys
try:
    import torch, accelerate, webdataset, tyro
except ImportError as error:
    sys.exit(f"{error}; make gpu-pack, and bring .gpu/ along")
try:
    from triton import __version__ as triton
except ImportError:
    triton = "none"
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"Python {platform.python_version()}, torch {torch.__version__}, triton {triton}, accelerate "
      f"{accelerate.__version__}, cuDNN {torch.backends.cudnn.version()}, {gpu}")
if gpu == "no GPU" and "rehearse" not in sys.argv:
    sys.exit("torch finds no GPU here; make gpu-rehearse needs none")
"""
CARD = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem", "--format=csv,noheader"]


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def install_missing(wheels: Path, site: Path) -> list[str]:
    """Unpack those wheels whose package is not there, into a folder for PYTHONPATH. What is there stays as it is,
    since a machine's torch was built with its own versions. Raises CalledProcessError.
    """
    site.mkdir(parents=True)
    missing = [wheel for wheel in sorted(wheels.glob("*.whl")) if not installed(wheel.name.split("-")[0])]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--no-cache-dir", "--target", site, *missing], check=True, timeout=60)
    return [wheel.name.split("-")[0] for wheel in missing]


def first_lines() -> list[str]:
    """The graphics card and the C compiler, with which Triton builds its launcher."""
    told = []
    for command in (CARD, ["gcc", "--version"]):
        if shutil.which(command[0]) is None:
            told.append(f"there is no {command[0]} here")
            continue
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        told.append((done.stdout or done.stderr).strip().partition("\n")[0])
    return told
