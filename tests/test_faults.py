"""Signals, kills and full disks, for real: nothing is lost, and a resumed run is the run that was never stopped."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY
from test_train import assert_close, final, losses, run

# 176 steps of 2 pairs; a checkpoint at the beginning, then every 40 pairs.
LONG = [
    "--batch", "2", "--history", "2", "--epochs", "16", "--decay-epochs", "16", "--checkpoint-every", "40",
    "--keep", "3",
]  # fmt: skip


def start(data, out, *options, ranks=1):
    """A run in a process group of its own, on its way."""
    program = [ROOT / "pipeline" / "train.py", *TINY, "--sample-images", "1", "--status-every", "1"]
    how = [sys.executable]
    if ranks > 1:
        how += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*how, *program, "--data", data, "--out", out, *options],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


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


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The run that nobody stops, 352 pairs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(shards, out, *LONG)
    return out


@pytest.fixture(scope="module")
def whole_on_two(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole_on_two") / "run"
    run(shards, out, *LONG, ranks=2)
    return out


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)], ids=lambda x: str(x)
)
def test_a_signal_saves_at_the_next_step_and_the_same_command_goes_on(shards, whole, tmp_path, number, code):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--workers", "2")
    wait_for(process, r"^ +5\d/352 pairs")
    os.killpg(process.pid, number)  # as a terminal and Slurm do: the data workers get it, too
    line = wait_for(process, "stopped by")
    assert process.wait(20) == code and nobody_left(out)
    stopped = int(re.search(r"at (\d+) pairs", line)[1])
    assert 50 <= stopped < 352
    assert (out / "checkpoints" / f"pairs-{stopped:012d}").exists()
    assert f"at {stopped} of 352 pairs" in run(shards, out, *LONG).stdout
    assert losses(out) == losses(whole)  # to the last bit
    assert_close(final(out), final(whole), 0)


def test_two_ranks_stop_together(shards, whole_on_two, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=2)
    wait_for(process, r"^ +5\d/352 pairs")
    os.kill(process.pid, signal.SIGTERM)  # the launcher tells its workers
    wait_for(process, "stopped by SIGTERM")
    process.communicate(timeout=40)
    assert nobody_left(out)
    run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)
    assert_close(final(out), final(whole_on_two), 0)


def test_a_killed_launcher_leaves_nobody_behind(shards, whole_on_two, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=2)
    wait_for(process, r"^ +5\d/352 pairs")
    process.kill()
    wait_for(process, "stopped by SIGTERM")
    assert nobody_left(out)
    run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)


@pytest.mark.slow
def test_a_hung_rank_ends_the_run_and_says_where(shards, whole_on_two, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--hang-after", "4", ranks=2)
    wait_for(process, r"^ +5\d/352 pairs")
    trainers = [pid for pid in processes_of(out) if pid != process.pid]
    assert len(trainers) == 2
    os.kill(max(trainers), signal.SIGSTOP)
    stopped = time.monotonic()
    output = process.communicate(timeout=60)[0]
    # The launcher gives the stopped process 30 s before it kills it.
    assert time.monotonic() - stopped < 50 and nobody_left(out)
    assert re.search(r"error: rank \d made no progress for 4 s, in the step at pair \d+; its stacks follow", output)
    assert "most recent call first" in output and "train.py" in output
    run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)
    assert_close(final(out), final(whole_on_two), 0)


def test_ctrl_c_twice_ends_at_once(shards, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--crop-size", "64", "--load-size", "64")
    wait_for(process, r"^ +\d+/352 pairs")
    os.kill(process.pid, signal.SIGSTOP)  # both arrive within one step
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130 and nobody_left(out)


def test_kill_9_at_random_moments(shards, whole, tmp_path):
    """Whatever the moment, checkpoints being written included, the run that goes on is the same run."""
    out, rng = tmp_path / "run", random.Random(0)
    for _ in range(4):
        process = start(shards, out, *LONG, "--checkpoint-every", "4", "--workers", "1")
        wait_for(process, r"/352 pairs")
        time.sleep(rng.uniform(0, 0.7))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        # Started again at once, while its data worker may still be noticing that the trainer is gone.
    assert nobody_left(out)
    run(shards, out, *LONG)
    assert losses(out) == losses(whole)
    assert_close(final(out), final(whole), 0)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_costs_no_checkpoint_and_training_goes_on(shards, whole, small_disk):
    out, filler = small_disk / "run", small_disk / "filler"
    options = [*LONG, "--checkpoint-every", "8", "--sample-every", "99999", "--keep", "2"]
    process = start(shards, out, *options)
    wait_for(process, r"^ +3\d/352 pairs")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    before = sorted(path.name for path in (out / "checkpoints").glob("pairs-*"))
    wait_for(process, "warning: no checkpoint at pair .* training goes on")
    assert set(before) & {path.name for path in (out / "checkpoints").glob("pairs-*")}
    filler.unlink()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert_close(final(out), final(whole), 0)


def test_no_room_from_the_start_ends_before_the_first_step(shards, small_disk):
    (small_disk / "filler").write_bytes(bytes(12 * 2**20 - 60_000))
    process = start(shards, small_disk / "run", *LONG)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "error: " in output and "Traceback" not in output
    assert "/352 pairs  epoch" not in output
