"""Ways to run the commands as a user does, and small data sets made by the project itself."""

import os
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from in_process import run_here
from PIL import Image

ROOT = Path(__file__).parents[2]

HORSE2ZEBRA = ROOT.parent / "shared" / "data" / "horse2zebra"

# Data workers of tests that do not say how many; `make faults` has all faults met with 2.
WORKERS = os.environ.get("ZORSE_TEST_WORKERS", "0")

# Networks small enough for a step to cost milliseconds, at the smallest size they allow.
TINY = [
    "--crop-size", "32", "--load-size", "36", "--generator-channels", "4", "--generator-blocks", "1",
    "--discriminator-channels", "4", "--discriminator-layers", "2", "--workers", WORKERS, "--features", "none",
]  # fmt: skip


ALIKE = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}


def command(arguments, cwd=ROOT, timeout=300, **environment):
    """Run a command to its end; the result holds returncode, stdout, stderr. After a timeout nothing of it is left."""
    env = {**os.environ, **ALIKE, **environment}
    arguments, pipes = [str(part) for part in arguments], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=cwd, env=env, text=True, start_new_session=True, **pipes) as running:
        try:
            stdout, stderr = running.communicate(timeout=timeout)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(arguments, running.returncode, stdout, stderr)


def script(name, *options, cwd=ROOT, process=False, **environment):
    """One of our commands, such as pipeline/translate.py, to its end; the result holds returncode, stdout, stderr.

    It runs in this process, since one of its own takes seconds to import torch. `process` has it run in its own, and so
    have options and an environment for which this one is no place.
    """
    options = [str(option) for option in options]
    if process or not _has_place_here(options, environment):
        return command([sys.executable, ROOT / name, *options], cwd=cwd, **environment)
    return run_here(ROOT / name, options, cwd, {**ALIKE, **environment})


def _has_place_here(options, environment):
    """Whether no process is forked off this one, nothing is compiled, and what is imported already knows enough."""
    workers = [int(count) for name, count in pairwise(options) if name == "--workers"]
    forks = workers and workers[-1] and "--data" in options
    known = all(name.startswith(("ACCELERATE_", "SLURM_")) for name in environment)  # read at each start
    return "--compile" not in options and not forks and known


def train(*options, ranks=1, launcher=None, cwd=ROOT, process=False, **environment):
    """pipeline/train.py on the CPU, on several ranks over gloo or on one.

    One rank is started without `accelerate launch`, which takes as long as a tiny run to start, unless `launcher` says
    which options to give it; and in this process where `script` can do that.
    """
    if ranks == 1 and launcher is None:
        return script("pipeline/train.py", *options, cwd=cwd, process=process, **environment)
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
    """The shards of a folder. The workers that write them are processes, as always."""
    made = script("data_prep/shard.py", "--source", folder, "--out", out, *options)
    assert made.returncode == 0, made.stderr
    return out
