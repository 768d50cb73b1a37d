"""launch/train.sbatch on a real Slurm of two nodes: requeue, preemption, time limit, scancel, killed rank, mistake."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from test_train import assert_close, final, losses, run

pytestmark = pytest.mark.slow
MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]
LONG = [  # 2200 pairs
    "--batch", "2", "--history", "2", "--epochs", "100", "--decay-epochs", "100", "--checkpoint-every", "400",
]  # fmt: skip
CLUSTER = Path(__file__).with_name("slurm_cluster.sh")


@pytest.fixture(scope="module")
def slurm():
    """A cluster of two nodes on this machine, and the environment in which its commands work."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    folder = Path(tempfile.mkdtemp(prefix="zorse-slurm-"))  # munge wants folders that others may read
    folder.chmod(0o755)
    subprocess.run([CLUSTER, "up", folder, "2"], check=True)
    yield {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "CPU_RANKS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1",
        "BIN": str(Path(sys.executable).parent),
    }
    subprocess.run([CLUSTER, "down", folder], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The same run on two ranks, undisturbed and without Slurm."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(shards, out, *LONG, ranks=2)
    return out


class Job:
    def __init__(self, slurm, data, folder, *sbatch, options=LONG):
        self.env, self.out, self.log = slurm, folder / "run", folder / "log"
        train = [*TINY, "--sample-images", "1", "--status-every", "1", "--data", data, "--out", self.out, *options]
        shutil.copytree(ROOT / "pipeline", folder / "pipeline")  # the journal goes where the job was submitted
        submit = ["sbatch", "--parsable", "--gres=none", "--nodes=2", "--time=10", f"--output={self.log}", *sbatch]
        self.id = self.slurm(*submit, ROOT / "launch" / "train.sbatch", *train, cwd=folder)
        self.journal = folder / f"zorse-{self.id}.journal"

    def slurm(self, *command, cwd=None):
        command = [str(part) for part in command]
        return subprocess.run(command, env=self.env, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def state(self):
        return re.search(r"JobState=(\w+)", self.slurm("scontrol", "show", "job", self.id))[1]

    def wait(self, condition, seconds=150):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.state()}\n{self.text()}"
            time.sleep(0.2)

    def wait_for_pairs(self, pairs):
        self.wait(lambda: any(int(n) >= pairs for n in re.findall(r"^ *(\d+)/2200 pairs", self.text(), re.M)))

    def wait_until_over(self):
        self.wait(lambda: self.state() in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"))
        return self.state()


def assert_same_as(whole, job):
    assert job.wait_until_over() == "COMPLETED", job.text()
    assert losses(job.out) == losses(whole)
    assert_close(final(job.out), final(whole), 0)


def test_requeue_comes_back_and_goes_on(slurm, shards, whole, tmp_path):
    job = Job(slurm, shards, tmp_path)
    job.wait_for_pairs(500)
    job.slurm("scontrol", "requeue", job.id)
    assert_same_as(whole, job)
    assert "restart 1" in job.text() and re.search(r"^stopped [5-9]\d\d$", job.journal.read_text(), re.M)


def test_preempted_by_a_more_urgent_job(slurm, shards, whole, tmp_path):
    job = Job(slurm, shards, tmp_path)
    job.wait_for_pairs(500)
    urgent = ["sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap"]
    job.slurm(*urgent, "sleep 3")
    assert_same_as(whole, job)
    assert "restart 1" in job.text() and "stopped" in job.journal.read_text()


def test_time_limit_saves_and_requeues(slurm, shards, whole, tmp_path):
    job = Job(slurm, shards, tmp_path, "--time=1", "--signal=B:USR1@50")  # Slurm may be up to a minute early
    assert_same_as(whole, job)
    assert "got USR1" in job.text() and "restart 1" in job.text()


def test_cancelled_stays_cancelled(slurm, shards, tmp_path):
    job = Job(slurm, shards, tmp_path)
    job.wait_for_pairs(500)
    job.slurm("scancel", job.id)
    assert job.wait_until_over() == "CANCELLED"
    time.sleep(8)  # a requeue would take 5
    assert job.state() == "CANCELLED"
    assert re.search(r"^stopped [5-9]\d\d$", job.journal.read_text(), re.M)  # saved all the same


def test_a_killed_rank_is_started_again_in_the_allocation(slurm, shards, whole, tmp_path):
    job = Job(slurm, shards, tmp_path)
    job.wait_for_pairs(500)
    subprocess.run(["pkill", "-9", "-n", "-f", f"train.py .*--out {job.out}"], check=True)
    assert_same_as(whole, job)
    assert "starting again in this allocation" in job.text() and "restart 1" not in job.text()
    assert job.journal.read_text().split() == ["started", "0", "started", "400", "finished", "2200"]


def test_a_mistake_is_not_started_again(slurm, shards, tmp_path):
    job = Job(slurm, shards, tmp_path, options=[*LONG, "--lr", "-1"])
    assert job.wait_until_over() == "FAILED"
    assert "error: --lr -1.0" in job.text() and "another start would not mend" in job.text()
    assert job.text().count("processes on 2 nodes") == 1
