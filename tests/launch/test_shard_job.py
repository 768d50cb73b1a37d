"""launch/shard.sbatch on a real Slurm: one submission makes a data set, what is requeued goes on, mistakes end it."""

import re
import time

import pytest
from running import ROOT, draw, shard
from slurm_tools import OVER, running

pytestmark = pytest.mark.slow
SLOW = """
import sys
import time
from zorse_prep import shard
at_once = shard.write_shard
def write_shard(*arguments):  # found by the workers, which import this file
    time.sleep(1)
    return at_once(*arguments)
if __name__ == "__main__":
    shard.write_shard = write_shard
    sys.exit(shard.main())
"""


@pytest.fixture(scope="module")
def slurm():
    with running(1) as cluster:
        yield cluster


class Jobs:
    """A submission of launch/shard.sbatch, with a second's work more for each shard, in two jobs that write."""

    def __init__(self, slurm, folder, *options):
        (folder / "data_prep").mkdir()
        (folder / "data_prep" / "shard.py").write_text(SLOW)
        self.slurm, self.folder = slurm, folder
        how = ["sbatch", "--parsable", "--cpus-per-task=3", "--time=10"]
        self.plan = slurm.run(*how, ROOT / "launch" / "shard.sbatch", *options, cwd=folder, TASKS="2")

    def text(self, job=None):
        """The log of a job, or all logs."""
        logs = self.folder.glob(f"zorse-shard-{job or '*'}.log")
        return "".join(log.read_text() for log in sorted(logs))

    def wait(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def state(self, job):
        return re.search(r"JobState=(\w+)", self.slurm.run("scontrol", "show", "job", job))[1]

    def wait_until_over(self, job):
        self.wait(lambda: self.state(job) in OVER)
        return self.state(job)

    def submitted(self):
        """(array of writers, finalizer), when they are."""
        assert self.wait_until_over(self.plan) == "COMPLETED", self.text()
        return re.search(r"submitted: (\d+) writes in 2 jobs, (\d+) then finalizes", self.text(self.plan)).groups()


def tars(out):
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


def folder_of_images(folder):
    for number, name in enumerate(("trainA", "trainB")):
        draw(folder / name, 24, seed=number)
    return folder


def test_what_is_requeued_goes_on_and_writes_the_same_bytes(slurm, tmp_path):
    images, out = folder_of_images(tmp_path / "images"), tmp_path / "out"
    shard(images, tmp_path / "whole", "--shard-size", "1")
    jobs = Jobs(slurm, tmp_path, "--source", images, "--out", out, "--shard-size", "1")
    writers, last = jobs.submitted()
    first, second = f"{writers}_0", f"{writers}_1"
    jobs.wait(lambda: len(tars(out)) >= 4)
    slurm.run("scancel", "--batch", "--signal=USR1", second)  # as Slurm does before the time limit
    jobs.wait(lambda: "restart 1" in jobs.text(second))
    assert "restart 1" not in jobs.text(first)
    before = len(tars(out))
    assert 4 <= before < 48
    slurm.run("scontrol", "requeue", first)  # as Slurm does on preemption
    jobs.wait(lambda: "restart 1" in jobs.text(first), seconds=150)
    assert jobs.wait_until_over(last) == "COMPLETED", jobs.text()
    for job in (first, second):
        assert "restart 1: 3 workers" in jobs.text(job) and "restart 2" not in jobs.text(job)
        assert re.search(r"; [1-9]\d* of 24 shards existed already", jobs.text(job))
    assert "next: " in jobs.text(last) and tars(out) == tars(tmp_path / "whole")
    assert (out / "manifest.json").exists()


def test_a_mistake_is_not_requeued_and_submits_nothing(slurm, tmp_path):
    for options, words in ((["--source", tmp_path / "nowhere", "--out", "x"], "does not exist"), ([], "give --out")):
        folder = tmp_path / words.replace(" ", "-")
        folder.mkdir()
        jobs = Jobs(slurm, folder, *options)
        assert jobs.wait_until_over(jobs.plan) == "FAILED"
        assert "error: " in jobs.text() and words in jobs.text()
        assert "ExitCode=2:0" in slurm.run("scontrol", "show", "job", jobs.plan)
        assert not slurm.run("squeue", "-h")


def test_nobody_waits_for_a_job_that_was_cancelled(slurm, tmp_path):
    images = folder_of_images(tmp_path / "images")
    jobs = Jobs(slurm, tmp_path, "--source", images, "--out", "out", "--shard-size", "1")
    writers, last = jobs.submitted()
    assert jobs.state(last) == "PENDING"
    slurm.run("scancel", f"{writers}_1")
    assert jobs.wait_until_over(last) == "CANCELLED"
    assert not (tmp_path / "out" / "manifest.json").exists()
    slurm.run("scancel", writers)
    jobs.wait(lambda: not slurm.run("squeue", "-h"))
