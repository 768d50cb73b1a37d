"""Ways to run the commands as a user does, and small data sets made by the project itself."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from fault_table import pytest_addoption, pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401, hooks
from PIL import Image

ROOT = Path(__file__).parents[2]

HORSE2ZEBRA = ROOT.parent / "shared" / "data" / "horse2zebra"

# Networks small enough for a step to cost milliseconds, at the smallest size they allow.
TINY = [
    "--crop-size", "32", "--load-size", "36", "--generator-channels", "4", "--generator-blocks", "1",
    "--discriminator-channels", "4", "--discriminator-layers", "2", "--workers", "0", "--features", "none",
]  # fmt: skip


def command(arguments, cwd=ROOT, timeout=300, **environment):
    """Run a command to its end; the result holds returncode, stdout, stderr. After a timeout nothing of it is left."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", **environment}
    arguments, pipes = [str(part) for part in arguments], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=cwd, env=env, text=True, start_new_session=True, **pipes) as running:
        try:
            stdout, stderr = running.communicate(timeout=timeout)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(arguments, running.returncode, stdout, stderr)


def train(*options, ranks=1, launcher=None, cwd=ROOT, **environment):
    """pipeline/train.py on the CPU, on several ranks over gloo or on one.

    One rank is started without `accelerate launch`, which takes as long as a tiny run to start, unless `launcher` says
    which options to give it.
    """
    if ranks == 1 and launcher is None:
        how = [sys.executable]
    else:
        how = [Path(sys.executable).with_name("accelerate"), "launch", "--quiet", "--num_machines", "1"]
        how += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", ranks]
        if ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                how += ["--multi_gpu", "--main_process_port", free.getsockname()[1]]
        how += launcher or []
    return command([*how, ROOT / "pipeline" / "train.py", *options], cwd=cwd, **environment)


def draw(folder, count, size=40, seed=0):
    """`count` different JPEG images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, count])
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=95)


def shard(folder, out, *options):
    made = command([sys.executable, ROOT / "data_prep" / "shard.py", "--source", folder, "--out", out, *options])
    assert made.returncode == 0, made.stderr
    return out
