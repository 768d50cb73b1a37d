"""What can happen to the processes of a run: stopped, orphaned, out of memory of one kind or another, hung up on."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from fcntl import ioctl
from pathlib import Path

import psutil
import pytest
from in_process import run_here
from running import ALIKE, ROOT, TINY, command
from runs import (
    LONG,
    LONG_PAIRS,
    SLOWLY,
    assert_close,
    assert_same,
    final,
    losses,
    nobody_left,
    processes_of,
    run,
    start,
    wait_for,
)

from zorse.checkpoints import format as checkpoint

LAUNCH = [Path(sys.executable).with_name("accelerate"), "launch", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The run that nothing happens to, by ranks."""
    made = {}

    def of(ranks):
        if ranks not in made:
            made[ranks] = tmp_path_factory.mktemp("whole") / "run"
            run(shards, made[ranks], *LONG, ranks=ranks)
        return made[ranks]

    return of


def small_shared_memory(size):
    """Words that run a command with a /dev/shm of its own."""
    inside = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && "$@"; code=$?; echo left: $(ls /dev/shm); exit $code'
    before = ["unshare", "--mount", "--propagation", "private", "bash", "-c", inside, "_"]
    tried = subprocess.run([*before, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {tried.stderr.strip()}")
    return before


def workers_of(process):
    """The data workers of a run of one process."""
    trainer = psutil.Process(process.pid)
    return [child for child in trainer.children() if "--out" in child.cmdline()]


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.exhaustive)]
)
def test_a_run_that_stood_still_goes_on(shards, whole, tmp_path, ranks):
    """For longer than a step may take; a launcher and data workers stand still, too."""
    out = tmp_path / "run"
    process = start(shards, out, *LONG, "--step-timeout", "2", ranks=ranks, fault=SLOWLY)
    wait_for(process, r"^ +5\d/")
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.killpg(process.pid, signal.SIGCONT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and nobody_left(out), output
    assert_same(out, whole(ranks))


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.exhaustive)]
)
def test_a_small_shared_memory_costs_no_pair(shards, whole, tmp_path, ranks):
    """A message of 8 pairs of 3 x 32 x 32 takes 48 kB; beside the megabyte that is left free, here is room for one."""
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=ranks, before=small_shared_memory("1124k"))
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 0, output
    assert output.count("warning: ") == ranks and output.count("--shm-size") == ranks and "Traceback" not in output
    assert "left:\n" in output  # of what torch could not fill
    assert_same(out, whole(ranks))


@pytest.mark.slow
@pytest.mark.fault(26)
def test_no_shared_memory_at_all_is_told(shards, tmp_path):
    process = start(shards, tmp_path / "run", *LONG, before=small_shared_memory("4k"))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and output.count("error: ") == 1 and "--shm-size" in output, output
    assert "Traceback" not in output


@pytest.mark.exhaustive
@pytest.mark.fault(26)
def test_the_doctor_tells_of_a_small_shared_memory(shards, tmp_path):
    doctor = [sys.executable, ROOT / "pipeline" / "doctor.py", *TINY, "--data", shards, "--workers", "2"]
    done = command([*small_shared_memory("100k"), *doctor, "--out", tmp_path / "run"], timeout=90)
    assert done.returncode == 0 and re.search("WARN +shared memory .*--shm-size", done.stdout), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault(26)
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_killed_data_worker_is_one_line(shards, whole, tmp_path, ranks):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, ranks=ranks, fault=SLOWLY)
    wait_for(process, r"^ +5\d/")
    victim = workers_of(process if ranks == 1 else psutil.Process(process.pid).children()[1])[1]
    victim.kill()
    output = process.communicate(timeout=10)[0]
    assert process.returncode == 1 and nobody_left(out, 0), output
    trainers = output.split("torch/distributed/elastic")[0]  # then a launcher has its say
    (line,) = re.findall("^error: .*", trainers, re.M)
    assert f"process {victim.pid}, was ended by a signal (Killed)" in line and "--workers" in line
    assert "Traceback" not in trainers
    run(shards, out, *LONG, ranks=ranks)
    assert_same(out, whole(ranks))


@pytest.mark.slow
@pytest.mark.fault(26)
def test_killed_data_workers_end_with_their_trainer(shards, tmp_path):
    """At once, since they hold the lock of its run directory."""
    out = tmp_path / "run"
    process = start(shards, out, *LONG, fault=SLOWLY)
    wait_for(process, r"^ +1\d/")
    assert len(workers_of(process)) == 2
    process.kill()
    process.communicate(timeout=20)
    assert nobody_left(out, 0.5)


@pytest.mark.slow
@pytest.mark.fault(27)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_launcher_killed_at_the_start_leaves_nobody_behind(shards, tmp_path, ranks):
    out = tmp_path / "run"
    launch = LAUNCH if ranks == 1 else [*LAUNCH, "--multi_gpu", "--main_process_port", "0"]
    options = [*TINY, "--workers", "2", "--data", shards, "--out", out, "--epochs", "400"]
    program = [*launch, "--num_processes", ranks, ROOT / "pipeline" / "train.py", *options]
    with (tmp_path / "log").open("w") as log:
        env = {**os.environ, **ALIKE}
        process = subprocess.Popen([str(part) for part in program], env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while len(processes_of(out)) < 1 + ranks and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)  # it has begun to import, and torch takes seconds
        process.kill()
        process.wait()
    assert nobody_left(out, 20) and not (out / "stats.jsonl").exists()
    log = (tmp_path / "log").read_text()
    assert "the launcher exited" in log and "Traceback" not in log, log


@pytest.mark.slow
@pytest.mark.fault(27)
def test_a_start_that_hangs_is_ended(shards, tmp_path):
    process = start(shards, tmp_path / "run", *LONG, "--step-timeout", "1", fault="hang-start")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 3 and "rank 0 made no progress for 4 s, in the start" in output, output


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("stopped", "ranks"),
    [
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 1, marks=pytest.mark.exhaustive),
        pytest.param(False, 2, marks=pytest.mark.exhaustive),
    ],
)
def test_on_a_disk_that_stays_full_a_run_ends(shards, small_disk, stopped, ranks):
    """Soon after its last word, whatever TensorBoard's failed writer holds."""
    out, filler = small_disk / "run", small_disk / "filler"
    options = [*LONG, "--checkpoint-every", "8", "--sample-every", "8", "--keep", "2"]
    process = start(shards, out, *options, ranks=ranks, fault=SLOWLY)
    wait_for(process, r"^ +3\d/")
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    wait_for(process, "warning: tensorboard's records end")
    if stopped:
        process.terminate()
    wait_for(process, "^error: no checkpoint could be written")
    process.communicate(timeout=10 * ranks)  # the launcher looks at its ranks now and then
    assert process.returncode == (2 if ranks == 1 else 1) and nobody_left(out, 0)


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.exhaustive)]
)
def test_a_closed_terminal_saves_and_ends(shards, tmp_path, ranks):
    out = tmp_path / "run"
    ours, theirs = pty.openpty()

    def own_terminal():
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where nohup runs the tests
        ioctl(theirs, termios.TIOCSCTTY, 0)

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks] if ranks > 1 else []
    program = [*launcher, ROOT / "tests" / "helpers" / "faulty.py", *TINY, "--workers", "2", "--data", shards]
    process = subprocess.Popen(
        [str(part) for part in (sys.executable, *program, "--out", out, "--log-every", "2", *LONG)],
        env={**os.environ, **ALIKE, "ZORSE_FAULT": "pace 0.1"},
        stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_terminal, pass_fds=(theirs,),
    )  # fmt: skip
    os.close(theirs)
    threading.Thread(target=lambda: all(iter(lambda: read(ours), b"")), daemon=True).start()
    deadline = time.monotonic() + 60
    while len(losses(out) if (out / "stats.jsonl").exists() else []) < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.close(ours)
    ended = process.wait(60)
    assert (ended == 129 if ranks == 1 else ended != 0) and nobody_left(out, 0)
    newest = checkpoint.latest_valid(out)
    assert newest and newest.name != "pairs-000000000000"


def read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


@pytest.mark.exhaustive
@pytest.mark.fault(29)
def test_under_nohup_a_hangup_changes_nothing(shards, whole, tmp_path):
    out = tmp_path / "run"
    process = start(shards, out, *LONG, fault=SLOWLY, before=["nohup"])
    wait_for(process, r"^ +5\d/")
    os.killpg(process.pid, signal.SIGHUP)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert_close(final(out), final(whole(1)), 0)
    assert f"is finished at {LONG_PAIRS} pairs" in output


IN_A_THREAD = """
import sys
import threading

from zorse.config.command_line import parse
from zorse.runs.watchdog import Watchdog
from zorse.training.trainer import train

watchdog = Watchdog(0, 600)
thread = threading.Thread(target=lambda: codes.append(train(parse(sys.argv[1:]), watchdog)))
codes = []
thread.start()
thread.join()
watchdog.end()
print("codes", codes)
"""


def test_training_in_a_thread(shards, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(IN_A_THREAD)
    options = [*TINY, "--data", shards, "--out", tmp_path / "run", "--epochs", "0.5", "--decay-epochs", "0"]
    done = run_here(program, options, tmp_path, ALIKE)
    assert "codes [0]" in done.stdout and "Traceback" not in done.stderr, done.stderr
