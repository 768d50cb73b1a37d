"""launch/train.sh: what comes back by itself, what ends, and with which exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import (
    SHORT,
    WATCHED,
    assert_same,
    nobody_left,
    pairs_reach,
    place_faulty_trainer,
    processes_of,
    run,
    wait_for,
)

from zorse.checkpoints import format as checkpoint


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The run on two ranks that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(shards, out, *SHORT, ranks=2)
    return out


class Launch:
    """launch/train.sh on its way, with a fault as in faulty.py."""

    def __init__(self, folder, data, *options, once=True, **environment):
        self.out, self.fault = folder / "run", folder / "fault"
        place_faulty_trainer(folder)
        env = {
            **os.environ,
            "BIN": str(Path(sys.executable).parent),
            "CPU_RANKS": "2",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(folder),
            "ZORSE_FAULT": "pace 0",
            **environment,
        }
        if once:
            env["ZORSE_FAULT_ONCE"] = str(self.fault)
        train = [*WATCHED, "--data", data, "--out", self.out, *options]
        self.process = subprocess.Popen(
            [str(part) for part in (folder / "launch" / "train.sh", *train)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where nohup runs the tests
        )

    def wait_for_pairs(self, pairs):
        pairs_reach(self.process, pairs)

    def wait(self):
        """The exit code, and the rest of the output."""
        output = self.process.communicate(timeout=200)[0]
        return self.process.returncode, output


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_killed_rank_is_started_again(shards, whole, tmp_path, record_property):
    launch = Launch(tmp_path, shards, *SHORT, ZORSE_FAULT="kill 1 30")
    wait_for(launch.process, "a process failed .* starting again")
    launch.wait_for_pairs(0)
    record_property("recovery_s", time.time() - launch.fault.stat().st_mtime)
    assert launch.wait()[0] == 0 and nobody_left(launch.out)
    assert_same(launch.out, whole)


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(shards, whole, tmp_path):
    launch = Launch(tmp_path, shards, *SHORT, ZORSE_FAULT="pace 0.2")
    launch.wait_for_pairs(20)
    launch.process.terminate()
    code, output = launch.wait()
    assert code == 143 and nobody_left(launch.out, 0), output
    stopped = int(re.search(r"\] stopped (\d+)", output)[1])
    assert (launch.out / "checkpoints" / f"pairs-{stopped:012d}").exists()
    launch = Launch(tmp_path, shards, *SHORT)
    wait_for(launch.process, f"at {stopped} of 88 pairs")
    assert launch.wait()[0] == 0
    assert_same(launch.out, whole)


@pytest.mark.slow
@pytest.mark.fault(3)
def test_a_save_may_take_longer_than_a_launcher_waits(shards, tmp_path):
    """torchrun's own 30 s until it kills what it told to end are too few for 36."""
    launch = Launch(tmp_path, shards, *SHORT, "--step-timeout", "60", ZORSE_FAULT="slow-save 12", once=False)
    launch.wait_for_pairs(2)
    launch.process.terminate()
    code, output = launch.wait()
    stopped = int(re.search(r"\] stopped (\d+)", output)[1])
    assert code == 143 and checkpoint.integrity_error(launch.out / "checkpoints" / f"pairs-{stopped:012d}") is None, (
        output
    )


def signal_the_group(launch, number):
    os.killpg(launch.process.pid, number)


def signal_all(launch, number):
    for pid in processes_of(launch.out):
        os.kill(pid, number)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["1", "2"])
@pytest.mark.parametrize(
    ("number", "send", "code"),
    [
        (signal.SIGINT, signal_the_group, 130),  # as Ctrl-C
        (signal.SIGHUP, signal_the_group, 129),  # as a terminal that closes
        (signal.SIGTERM, signal_all, 143),  # as systemd unless told otherwise
        (signal.SIGUSR1, lambda launch, number: launch.process.send_signal(number), 138),
    ],
    ids=["ctrl-c", "hangup", "systemd", "usr1"],
)
def test_however_a_signal_is_sent_the_run_saves(shards, tmp_path, number, send, code, ranks):
    launch = Launch(tmp_path, shards, *SHORT, ZORSE_FAULT="pace 0.2", CPU_RANKS=ranks)
    launch.wait_for_pairs(20)
    send(launch, number)
    ended, output = launch.wait()
    assert ended == code and nobody_left(launch.out, 0), output
    stopped = int(re.search(r"\] stopped (\d+)", output)[1])
    assert (launch.out / "checkpoints" / f"pairs-{stopped:012d}").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_second_ctrl_c_ends_a_hung_run_at_once(shards, tmp_path, ranks):
    launch = Launch(tmp_path, shards, *SHORT, ZORSE_FAULT="hang 0 11", CPU_RANKS=ranks)
    launch.wait_for_pairs(20)
    signal_the_group(launch, signal.SIGINT)
    wait_for(launch.process, "got INT")
    signal_the_group(launch, signal.SIGINT)
    assert launch.wait()[0] == 130 and nobody_left(launch.out)


@pytest.mark.slow
def test_a_signal_before_the_first_step_ends_it(shards, tmp_path):
    launch = Launch(tmp_path, shards, *SHORT)
    wait_for(launch.process, "2 processes")
    launch.process.terminate()
    assert launch.wait()[0] == 143 and nobody_left(launch.out, 0)


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_killed_script_leaves_nobody_behind(shards, tmp_path):
    launch = Launch(tmp_path, shards, *SHORT, ZORSE_FAULT="pace 0.5")
    launch.wait_for_pairs(6)
    launch.process.kill()
    launch.process.wait()
    wait_for(launch.process, "stopped by SIG")
    assert nobody_left(launch.out)


@pytest.mark.fault(9)
def test_a_mistake_is_not_started_again(shards, tmp_path):
    code, output = Launch(tmp_path, shards, "--lr", "-1").wait()
    assert code == 2 and "error: --lr -1.0" in output and "a restart would not fix" in output
    assert output.count("2 processes") == 1


@pytest.mark.slow
@pytest.mark.fault(8)
def test_three_starts_without_a_new_pair_are_enough(shards, tmp_path):
    launch = Launch(tmp_path, shards, *SHORT, once=False, ZORSE_FAULT="raise 0 3", CPU_RANKS="1")
    code, output = launch.wait()
    assert code == 1 and "3 consecutive starts made no progress" in output
    assert (
        output.count("starting 1 process on 1 machine") == 3
        and output.count("RuntimeError: this fault was asked for") == 3
    )


@pytest.mark.parametrize(
    ("environment", "fix"),
    [
        ({"NODES": "two"}, "NODES=two is not a number"),
        ({"NODES": "2", "MASTER_ADDR": "", "ZORSE_JOURNAL": "x"}, "needs MASTER_ADDR"),
        ({"NODES": "2", "MASTER_ADDR": "x", "ZORSE_JOURNAL": ""}, "needs ZORSE_JOURNAL"),
        ({"NODES": "2", "NODE_RANK": "2"}, "the numbers 0 to 1"),
        ({"BIN": "/nowhere"}, "run make install"),
        ({"ZORSE_JOURNAL": "/nowhere/journal"}, "cannot be written"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else "",
)
def test_a_mistake_in_the_environment_is_told_in_a_line(shards, tmp_path, environment, fix):
    code, output = Launch(tmp_path, shards, **environment).wait()
    assert code == 2 and re.search(f"^error: .*{re.escape(fix)}", output, re.M), output
