"""Training runs for tests: started, watched, compared, damaged."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import torch
from running import ROOT, TINY, train
from safetensors.torch import load_file

from zorse.checkpoints import format as checkpoint

EXACT = ["--dtype", "float64"]


def run(data, out, *options, **how):
    """A tiny run that reports every pair and evaluates only at its ends. It must succeed."""
    options = ["--data", data, "--out", out, "--log-every", "1", *options]
    done = train(*TINY, "--sample-images", "1", *options, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def losses(out):
    """The losses and gradient norms in stats.jsonl, a list per line."""
    kinds = ("adversarial", "cycle", "identity", "discriminator", "gradient_norm")
    records = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return [(r["pairs"], [r[name] for name in r if name.startswith(kinds)]) for r in records]


def final(out):
    """All networks, Adam's state and the history of a run's last checkpoint, by name."""
    path = checkpoint.latest_valid(out)
    tensors = {**load_file(path / "networks.safetensors"), **load_file(path / "optimizer.safetensors")}
    for file in path.glob("history-*"):
        tensors |= {f"history {name}": tensor for name, tensor in load_file(file).items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}  # off the mapped files, which tests damage


def assert_close(one, other, tolerance):
    assert sorted(one) == sorted(other)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def refused(done, *words):
    """One line that names the fix, exit code 2 and no traceback."""
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


# 7 and 11 images: an epoch of 11 pairs, so 24 pairs cross a pass of both domains. History of 2: old images are used.
SIX_STEPS = ["--batch", "4", "--epochs", "1", "--decay-epochs", "1.19", "--image-pool-size", "2"]

# 17 pairs by ones; stopped after 9, in the middle of a pass of both domains.
SEVENTEEN = [
    "--batch",
    "1",
    "--image-pool-size",
    "3",
    "--epochs",
    "1",
    "--decay-epochs",
    "0.55",
    "--checkpoint-every",
    "3",
]


def cut_back(out, pairs):
    """Leave a run as a kill after the checkpoint at `pairs` would: later checkpoints gone, later lines still there."""
    for path in (out / "checkpoints").glob("pairs-*"):
        if int(path.name.split("-")[1]) > pairs:
            shutil.rmtree(path)


# 88 steps of 2 pairs; a checkpoint at the beginning, then every 40 pairs.
LONG = [
    "--batch", "2", "--image-pool-size", "2", "--epochs", "8", "--decay-epochs", "8", "--checkpoint-every", "40",
    "--keep", "3",
]  # fmt: skip
LONG_PAIRS = 176
WATCHED = [*TINY, "--workers", "2", "--sample-images", "1", "--log-every", "1"]  # with data workers, a line a step
SLOWLY = "pace 0.03"  # a fault for runs that are interrupted from outside, so that they are not over before that


def start(data, out, *options, ranks=1, fault=None, before=(), **environment):
    """A run with two data workers, in a process group of its own, on its way.

    fault: as in faulty.py. before: words of a command line that runs another.
    """
    script = ROOT / "tests" / "helpers" / "faulty.py" if fault else ROOT / "pipeline" / "train.py"
    program = [script, *WATCHED]
    how = [*before, sys.executable]
    if ranks > 1:
        how += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
    env["ZORSE_FAULT"] = fault or ""
    return subprocess.Popen(
        [*how, *program, "--data", data, "--out", out, *options],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said(output, line):
    """How often a line of ours begins so; a launcher's report of the cause repeats it further to the right."""
    return len(re.findall(f"^{re.escape(line)}", output, re.MULTILINE))


def wait_for(process, pattern):
    """Read the output up to a line that matches; fails when it never comes."""
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return line
    raise AssertionError(f"{pattern!r} never came:\n{seen}")


def processes_of(out):
    """Launcher, trainers and data workers of a run, by its name in their command lines; without zombies."""
    rows = subprocess.run(["ps", "-ww", "-eo", "pid=,stat=,args="], capture_output=True, text=True).stdout.splitlines()
    found = [row.split(None, 2) for row in rows if f"--out {out} " in row]
    return [int(pid) for pid, state, _ in found if not state.startswith("Z")]


def nobody_left(out, seconds=10):
    deadline = time.monotonic() + seconds
    while processes_of(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(out)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_one_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


SHORT = [  # 88 pairs in 44 steps
    "--batch", "2", "--image-pool-size", "2", "--epochs", "4", "--decay-epochs", "4", "--checkpoint-every", "20",
]  # fmt: skip


def place_faulty_trainer(folder):
    """launch/train.sh in a folder where tests/helpers/faulty.py takes the place of pipeline/train.py."""
    for path, source in (("launch/train.sh", "launch/train.sh"), ("pipeline/train.py", "tests/helpers/faulty.py")):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / source, folder / path)


def pairs_reach(process, pairs):
    while int(wait_for(process, r"^ *\d+/\d+ pairs").split("/")[0]) < pairs:
        pass


def assert_same(out, whole):
    assert losses(out) == losses(whole)
    assert_close(final(out), final(whole), 0)
