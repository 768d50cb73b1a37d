"""Folders of small images, and data_prep/shard.py run on them as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from pictures import encode
from running import ROOT, script

HORSE2ZEBRA = ROOT.parent / "shared" / "data" / "horse2zebra"
COMMAND = [sys.executable, ROOT / "data_prep" / "shard.py"]


def prep(*arguments, process: bool = False, **environment) -> subprocess.CompletedProcess:
    """Any of its commands, to the end, in this process or in its own. Those that write shards are their own anyway."""
    if process or not all(name.startswith("SLURM_") for name in environment):
        environment = {**os.environ, **environment}
        return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=120)
    return script("data_prep/shard.py", *arguments, **environment)


def shard(*arguments, workers: int = 1, **environment) -> subprocess.CompletedProcess:
    return prep(*arguments, "--workers", str(workers), **environment)


def done(result: subprocess.CompletedProcess) -> str:
    """The output of a command that went well."""
    assert result.returncode == 0, result
    return result.stdout


def assert_refused(result: subprocess.CompletedProcess, *words: str, code: int = 2) -> None:
    """A user's error: its exit code, and one line on stderr with these words."""
    assert result.returncode == code, result
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def noisy_jpeg(seed: int, side: int = 48) -> bytes:
    """A JPEG of its own for each seed; the comment in it makes it so, for of pictures there are 20."""
    data = encode(np.random.default_rng(seed % 20).integers(0, 255, (side, side, 3), dtype=np.uint8))
    return data[:2] + b"\xff\xfe\x00\x06" + seed.to_bytes(4, "big") + data[2:]


def make_folder(root: Path, counts: dict[str, int], side: int = 48) -> Path:
    """So many images in each split's folder, all of them different."""
    for domain, (split, count) in enumerate(counts.items()):
        (root / split).mkdir(parents=True)
        for number in range(count):
            (root / split / f"{number}.jpg").write_bytes(noisy_jpeg(10000 * domain + number, side))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a data set, the plan's lines, too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_created(files: dict[str, bytes]) -> dict:
    """Files of a data set, with the time of its making taken out, and what in the plan tells of the source's place."""
    plain = dict(files)
    for name in ("plan.json", "manifest.json"):
        plain[name] = {**json.loads(files[name]), "created": None}
    return plain


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def counts_of(out: Path, what: str = "samples") -> dict[str, int]:
    return {split: entry[what] for split, entry in manifest_of(out)["splits"].items()}
