"""Signals, kills and full disks, for real: nothing is lost, and a resumed run is the run that was never stopped."""

import json
import os
import pickle
import random
import re
import shutil
import signal
import struct
import sys
import time
import zlib

import psutil
import pytest
from PIL import Image
from running import ROOT, TINY, command
from runs import LONG, LONG_PAIRS, SLOWLY, assert_close, cut, final, losses, nobody_left, run, said, start, wait_for


class Recovery:
    """Goes on with a run after a fault, to its end, and records the time from the fault to the first new step."""

    def __init__(self, record_property):
        self.record_property = record_property
        self.since = time.monotonic()

    def fault(self):
        self.since = time.monotonic()

    def run(self, data, out, *options, ranks=1):
        process = start(data, out, *options, ranks=ranks)
        line = wait_for(process, "^resuming|^starting")
        wait_for(process, rf"^ +\d+/{LONG_PAIRS} pairs")
        self.record_property("recovery_s", time.monotonic() - self.since)
        rest = process.communicate(timeout=120)[0]
        assert process.returncode == 0, rest
        return line


@pytest.fixture
def recovery(record_property):
    return Recovery(record_property)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The run that nobody stops."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(shards, out, *LONG)
    return out


@pytest.fixture(scope="module")
def whole_on_two(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole_on_two") / "run"
    run(shards, out, *LONG, ranks=2)
    return out


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        (signal.SIGINT, 130),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.exhaustive),
    ],
    ids=lambda x: str(x),
)
@pytest.mark.fault(3)
def test_a_signal_saves_at_the_next_step_and_the_same_command_goes_on(shards, whole, tmp_path, recovery, number, code):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, fault=SLOWLY)
    wait_for(process, r"^ +5\d/")
    os.killpg(process.pid, number)  # as a terminal and Slurm do: the data workers get it, too
    recovery.fault()
    line = wait_for(process, "stopped by")
    assert process.wait(60) == code and nobody_left(out)
    stopped = int(re.search(r"at (\d+) pairs", line)[1])
    assert 50 <= stopped < LONG_PAIRS
    assert (out / "checkpoints" / f"pairs-{stopped:012d}").exists()
    assert f"at {stopped} of {LONG_PAIRS} pairs" in recovery.run(shards, out, *LONG)
    assert losses(out) == losses(whole)  # to the last bit
    assert_close(final(out), final(whole), 0)


@pytest.mark.slow
@pytest.mark.fault(3)
def test_two_ranks_stop_together(shards, whole_on_two, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=2, fault=SLOWLY)
    wait_for(process, r"^ +5\d/")
    os.kill(process.pid, signal.SIGTERM)  # the launcher tells its workers
    wait_for(process, "stopped by SIGTERM")
    process.communicate(timeout=40)
    assert nobody_left(out)
    run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)
    assert_close(final(out), final(whole_on_two), 0)


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_killed_launcher_leaves_nobody_behind(shards, whole_on_two, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=2, fault=SLOWLY)
    wait_for(process, r"^ +5\d/")
    process.kill()
    wait_for(process, "stopped by SIGTERM")
    assert nobody_left(out)
    run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_killed_rank_ends_the_others(shards, whole_on_two, tmp_path, recovery):
    """Seen by the others at once; the first failure is shown once; nobody is left."""
    out, killed = tmp_path / "run", tmp_path / "killed"
    process = start(shards, out, *LONG, ranks=2, fault="kill 1 70", ZORSE_FAULT_ONCE=str(killed))
    output = process.communicate(timeout=90)[0]
    assert time.time() - killed.stat().st_mtime < 5
    recovery.fault()
    assert nobody_left(out, 0)
    assert output.count("lost contact with another rank") == 1 and "trainer.py" not in output
    assert process.returncode == 1
    recovery.run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)
    assert_close(final(out), final(whole_on_two), 0)


@pytest.mark.slow
@pytest.mark.fault(8)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_is_shown_once(shards, whole_on_two, tmp_path, recovery, rank):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=2, fault=f"raise {rank} 70")
    output = process.communicate(timeout=90)[0]
    recovery.fault()
    assert nobody_left(out)
    trainers = output.split("torch/distributed/elastic")[0]  # then the launcher has its say
    assert trainers.count("Traceback (most recent call last)") == 1
    assert f"rank {rank} failed:" in trainers and "RuntimeError: this fault was asked for" in trainers
    assert "lost contact" not in output
    assert "this fault was asked for" in (out / "failure.txt").read_text()
    recovery.run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)


@pytest.mark.slow
@pytest.mark.fault(7)
def test_a_rank_that_waits_for_ever_ends_the_run(shards, whole_on_two, tmp_path, recovery):
    """Both ranks say where they hang: the one that does, and the one that waits for it."""
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--step-timeout", "4", ranks=2, fault="hang 1 70")
    output = process.communicate(timeout=90)[0]
    recovery.fault()
    assert nobody_left(out)
    for rank in (0, 1):
        assert f"error: rank {rank} made no progress for 4 s, in the step at pair 140; its stacks follow" in output
    assert "faulty.py" in output and "trainer.py" in output
    recovery.run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)


@pytest.mark.fault(19)
@pytest.mark.parametrize("kind", ["nan", pytest.param("infinite", marks=pytest.mark.slow)])
def test_nothing_that_is_not_finite_is_saved(shards, tmp_path, kind):
    """A loss, or only the weights after it, at the very step before a checkpoint; one rank alone has it."""
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--keep", "99", ranks=2, fault=f"{kind} 1 59")
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 1 and nobody_left(out)
    assert said(output, "error: ") == 1, output
    assert ("in the step that began at pair 118" if kind == "nan" else "not finite after pair 120") in output
    saved = sorted(path.name for path in (out / "checkpoints").glob("pairs-*"))
    assert saved == ["pairs-000000000000", "pairs-000000000040", "pairs-000000000080"]
    assert all(tensor.isfinite().all() for tensor in final(out).values())


@pytest.mark.slow
@pytest.mark.fault(7)
def test_a_hung_rank_ends_the_run_and_says_where(shards, whole_on_two, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--step-timeout", "4", ranks=2, fault=SLOWLY)
    wait_for(process, r"^ +5\d/")
    trainers = psutil.Process(process.pid).children()
    assert len(trainers) == 2
    trainers[1].suspend()
    stopped = time.monotonic()
    output = process.communicate(timeout=90)[0]
    # Anything but a step may take four times as long; the launcher gives the stopped process 30 s before it kills it.
    assert time.monotonic() - stopped < 60 and nobody_left(out)
    where = r"(4 s, in the step|16 s, in the status) at pair \d+"
    assert re.search(rf"error: rank \d made no progress for {where}; its stacks follow", output), output
    assert "most recent call first" in output and "train.py" in output
    run(shards, out, *LONG, ranks=2)
    assert losses(out) == losses(whole_on_two)
    assert_close(final(out), final(whole_on_two), 0)


def test_ctrl_c_twice_ends_at_once(shards, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--crop-size", "64", "--load-size", "64")
    wait_for(process, r"^ +\d+/")
    os.kill(process.pid, signal.SIGSTOP)  # both arrive within one step
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130 and nobody_left(out)


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.parametrize(("seed", "kills"), [(0, 3), (1, 8), pytest.param(2, 8, marks=pytest.mark.exhaustive)])
def test_kill_9_at_random_moments(shards, whole, tmp_path, recovery, record_property, seed, kills):
    """Whatever the moment, checkpoints being written included, the run that goes on is the same run."""
    out, rng = tmp_path / "run", random.Random(seed)
    record_property("tries", kills)
    for _ in range(kills):
        paced = start(shards, out, *LONG, "--checkpoint-every", "4", "--workers", "1", fault="pace 0.06")
        wait_for(paced, rf"/{LONG_PAIRS} pairs")
        time.sleep(rng.uniform(0, 0.7))
        os.kill(paced.pid, signal.SIGKILL)
        recovery.fault()
        paced.communicate(timeout=20)
        # Started again at once, while its data worker may still be noticing that the trainer is gone.
    assert nobody_left(out)
    recovery.run(shards, out, *LONG)
    assert losses(out) == losses(whole)
    assert_close(final(out), final(whole), 0)


# 6 steps, a checkpoint before the first and after every second.
SIX = [
    *("--sample-images", "1", "--batch", "2", "--image-pool-size", "2", "--epochs", "1", "--decay-epochs", "0.09"),
    *("--log-every", "4", "--checkpoint-every", "4", "--keep", "1"),
]


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    ("which", "least"),
    [pytest.param("kinds", 20, marks=pytest.mark.slow), pytest.param("all", 80, marks=pytest.mark.exhaustive)],
)
def test_kill_9_at_file_events(shards, tmp_path, record_property, which, least):
    """Right before a file is opened for writing, renamed, removed: what is there is whole, and the run goes on."""
    program = [sys.executable, ROOT / "tests" / "helpers" / "every_event.py", tmp_path, which]
    done = command([*program, *TINY, "--data", shards, *SIX], timeout=1500)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("held ", "FAILED "))]
    record_property("tries", len(lines))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) >= least and any("/checkpoints/" in line for line in lines)


ON_TWO_TOO = pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.exhaustive)])


@pytest.mark.exhaustive
@pytest.mark.fault(2)
def test_kill_9_at_file_events_ends_both_ranks(shards, whole_on_two, tmp_path, record_property):
    """Rank 0 is killed at some of what it does to files, and both go on from what is there."""
    events = tmp_path / "events"
    watched = start(shards, tmp_path / "watched", *LONG, ranks=2, fault=f"events {events}")
    assert watched.wait(120) == 0
    count = len(events.read_text().splitlines())
    chosen = sorted(random.Random(0).sample(range(count), 8))
    record_property("tries", len(chosen))
    for number in chosen:
        out = tmp_path / f"event-{number}"
        killed = start(shards, out, *LONG, ranks=2, fault=f"event {number}")
        killed.communicate(timeout=120)
        assert killed.returncode and nobody_left(out)
        run(shards, out, *LONG, "--workers", "2", ranks=2)
        assert losses(out) == losses(whole_on_two)
        assert_close(final(out), final(whole_on_two), 0)


@pytest.mark.exhaustive
@pytest.mark.fault(11, 12, 13, 20, 24)
def test_on_two_ranks_a_mistake_is_told_once_and_a_damaged_checkpoint_costs_one(shards, whole_on_two, tmp_path):
    def refused(*options, out=tmp_path / "run"):
        process = start(shards, out, *LONG, *options, ranks=2)
        told = process.communicate(timeout=60)[0]
        assert process.returncode and said(told, "error: ") == 1, told
        return told

    assert "--lr -1.0" in refused("--lr", "-1")
    (tmp_path / "file").touch()
    assert "is a file; give another --out" in refused(out=tmp_path / "file")
    assert "cannot be written" in refused(out="/proc/run")

    # With the newest one cut, both ranks take the one before; with all of them cut, neither begins anew.
    out = shutil.copytree(whole_on_two, tmp_path / "copy", symlinks=True)
    assert "other options" in refused("--seed", "5", out=out)
    newest = max((out / "checkpoints").glob("pairs-*"))
    cut(newest / "optimizer.safetensors")
    told = run(shards, out, *LONG, "--workers", "2", ranks=2)
    assert f"{newest.name} is damaged" in told.stdout + told.stderr
    assert losses(out) == losses(whole_on_two)
    assert_close(final(out), final(whole_on_two), 0)
    for path in (out / "checkpoints").glob("pairs-*"):
        cut(path / "optimizer.safetensors")
    assert "checkpoints are damaged" in refused(out=out)


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return type(self.canary).touch, (self.canary,)


@pytest.mark.exhaustive
@pytest.mark.fault(14, 16, 17, 18)
def test_on_two_ranks_nothing_hostile_in_shards_is_run_expanded_or_followed(shards, tmp_path):
    canary = tmp_path / "canary"

    # In place of two images of domain a, one with the size of a house front, and a pickle: both are replaced.
    data = shutil.copytree(shards, tmp_path / "data")
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(2000))))
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    tars = sorted(data.glob("trainA-*.tar"))
    for tar, content in zip(tars, (bomb, pickle.dumps(Evil(canary))), strict=True):
        with tar.open("r+b") as file:
            file.seek(512)  # behind the first member's header
            file.write(content)
    done = run(data, tmp_path / "run", *LONG, "--workers", "2", ranks=2)
    assert "cannot be read" in done.stdout + done.stderr and not canary.exists()
    lines = [json.loads(line) for file in (tmp_path / "run").glob("quarantine-*") for line in file.open()]
    assert {(line["shard"], line["sample"]) for line in lines} == {(tar.name, 0) for tar in tars}
    assert any("3600000000 pixels" in line["reason"] for line in lines)

    # A shard's name that leads elsewhere is not followed.
    whole_manifest = json.loads((data / "manifest.json").read_text())
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["splits"]["trainA"]["shards"][0]["name"] = "../outside.tar"
    shutil.copy(tars[0], tmp_path / "outside.tar")
    (data / "manifest.json").write_text(json.dumps(manifest))
    process = start(data, tmp_path / "other", *LONG, ranks=2)
    told = process.communicate(timeout=60)[0]
    assert process.returncode and said(told, "error: ") == 1 and "../outside.tar" in told, told

    # Nor is a shard that is not there passed over.
    (data / "manifest.json").write_text(json.dumps(whole_manifest))
    tars[0].unlink()
    process = start(data, tmp_path / "third", *LONG, ranks=2)
    told = process.communicate(timeout=60)[0]
    assert process.returncode and said(told, "error: ") == 1 and tars[0].name in told, told


@pytest.mark.fault(10, 28)
@ON_TWO_TOO
def test_a_full_disk_costs_no_checkpoint_and_training_goes_on(shards, request, small_disk, ranks):
    whole = request.getfixturevalue("whole" if ranks == 1 else "whole_on_two")
    out, filler = small_disk / "run", small_disk / "filler"
    options = [*LONG, "--checkpoint-every", "8", "--sample-every", "8", "--keep", "2"]
    process = start(shards, out, *options, ranks=ranks, fault=SLOWLY)
    wait_for(process, r"^ +3\d/")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    before = sorted(path.name for path in (out / "checkpoints").glob("pairs-*"))
    wait_for(process, "warning: the sample grid could not be written, training continues")
    wait_for(process, "warning: no checkpoint at pair .* training continues")
    assert set(before) & {path.name for path in (out / "checkpoints").glob("pairs-*")}
    filler.unlink()
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and nobody_left(out, 0), told
    assert told.count("TensorBoard") <= 1
    assert_close(final(out), final(whole), 0)
    assert losses(out) == losses(whole)
    for picture in (out / "samples").iterdir():
        Image.open(picture).load()


@pytest.mark.fault(10)
@ON_TWO_TOO
def test_no_room_from_the_start_ends_before_the_first_step(shards, small_disk, ranks):
    (small_disk / "filler").write_bytes(bytes(12 * 2**20 - 60_000))
    process = start(shards, small_disk / "run", *LONG, ranks=ranks)
    output = process.communicate(timeout=60)[0]
    assert process.returncode and said(output, "error: ") == 1, output
    assert ranks == 2 or (process.returncode == 2 and "Traceback" not in output)  # torchrun's own, of a failed rank
    assert f"/{LONG_PAIRS} pairs  epoch" not in output


def test_a_failure_right_after_that_of_the_last_start_is_told(tmp_path):
    again = (
        "import sys; from pathlib import Path; from zorse.runs import failure; out = Path(sys.argv[1]); "
        "failure.start(out); claim = failure.claim_failure_report; "
        "print(claim(out, 'again'), claim(out, 'of another rank'))"
    )
    for _ in range(2):
        done = command([sys.executable, "-c", again, tmp_path])
        assert done.stdout == "True False\n", done.stderr
