"""launch/shard.sbatch on a real Slurm: what is requeued goes on and writes the same bytes, what is wrong ends."""

import re
import time

import pytest
from conftest import ROOT, draw, shard
from slurm_tools import OVER, running

pytestmark = pytest.mark.slow
SLOW = """
import sys
import time
from data_prep import workers
from data_prep.shard import main
at_once = workers.write_shard
def write_shard(*arguments):
    time.sleep(1)
    at_once(*arguments)
workers.write_shard = write_shard  # also in the workers, which import this file
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def slurm():
    with running(1) as cluster:
        yield cluster


class Job:
    def __init__(self, slurm, folder, *options):
        (folder / "data_prep").mkdir()
        (folder / "data_prep" / "shard.py").write_text(SLOW)
        self.slurm, self.log = slurm, folder / "log"
        script = ROOT / "launch" / "shard.sbatch"
        how = ["sbatch", "--parsable", "--cpus-per-task=3", "--time=10", f"--output={self.log}"]
        self.id = slurm.run(*how, script, "--shard-size", "2", *options, cwd=folder)

    def wait(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def state(self):
        return re.search(r"JobState=(\w+)", self.slurm.run("scontrol", "show", "job", self.id))[1]

    def wait_until_over(self):
        self.wait(lambda: self.state() in OVER)
        return self.state()


def tars(out):
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


def test_what_is_requeued_goes_on_and_writes_the_same_bytes(slurm, tmp_path):
    for number, name in enumerate(("trainA", "trainB")):
        draw(tmp_path / "images" / name, 24, seed=number)
    shard(tmp_path / "images", tmp_path / "whole", "--shard-size", "2")
    out = tmp_path / "out"
    job = Job(slurm, tmp_path, "--source", tmp_path / "images", "--out", out)
    job.wait(lambda: len(tars(out)) >= 3)
    slurm.run("scancel", "--batch", "--signal=USR1", job.id)  # as Slurm does before the time limit
    job.wait(lambda: "restart 1" in job.log.read_text())
    before = len(tars(out))
    assert 3 <= before < 24
    job.wait(lambda: len(tars(out)) >= before + 3)
    slurm.run("scontrol", "requeue", job.id)  # as Slurm does on preemption
    assert job.wait_until_over() == "COMPLETED", job.log.read_text()
    text = job.log.read_text()
    assert "restart 2: 3 workers" in text
    assert int(re.search(r"(\d+) of 24 shards were there already", text)[1]) >= before + 3
    assert tars(out) == tars(tmp_path / "whole")


def test_a_mistake_is_not_requeued(slurm, tmp_path):
    job = Job(slurm, tmp_path, "--source", tmp_path / "nowhere")
    assert job.wait_until_over() == "FAILED"
    assert "error: " in job.log.read_text() and "ended with exit code 2" in job.log.read_text()
    assert "ExitCode=2:0" in slurm.run("scontrol", "show", "job", job.id)
