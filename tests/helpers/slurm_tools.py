"""A real Slurm for tests, and jobs of launch/train.sbatch on it."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import ROOT
from runs import WATCHED, assert_close, final, losses, run

MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]
PAIRS = 198
LONG = [  # 99 steps
    "--batch", "2", "--image-pool-size", "2", "--epochs", "9", "--decay-epochs", "9", "--checkpoint-every", "20",
]  # fmt: skip
SHEBANG = "#!/usr/bin/env -S --default-signal=USR1,TERM bash"  # bash cannot trap what it was started to ignore
SCRIPT = Path(__file__).with_name("slurm_cluster.sh")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Cluster(dict):
    """A cluster that is up, see slurm_cluster.sh; as a dictionary, the environment in which its commands work."""

    def __init__(self, folder, hosts):
        super().__init__(
            os.environ,
            SLURM_CONF=str(folder / "slurm.conf"),
            CPU_RANKS="1",
            PYTHONUNBUFFERED="1",
            BIN=str(Path(sys.executable).parent),
            GLOO_SOCKET_IFNAME="lo" if hosts == "shared" else "eth0",
        )
        if hosts == "shared":
            self["MASTER_ADDR"] = "127.0.0.1"
        self.inside = ["nsenter", "--net=/run/netns/zorse-net"] if hosts == "apart" else []

    def run(self, *command, cwd=None, **environment):
        """A client command; its output."""
        command = [*self.inside, *(str(part) for part in command)]
        done = subprocess.run(command, env={**self, **environment}, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@contextmanager
def running(nodes, hosts="shared", **environment):
    """A cluster while it lasts, one at a time on a machine. Skips where Slurm is not."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)} not installed (Debian: slurmctld slurmd slurm-client munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    with (Path(tempfile.gettempdir()) / "zorse-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(tempfile.mkdtemp(prefix="zorse-slurm-"))
        folder.chmod(0o755)  # munge wants folders that others may read
        how = [folder, str(nodes), hosts]
        try:
            subprocess.run([SCRIPT, "up", *how], env={**os.environ, **environment}, check=True)
            yield Cluster(folder, hosts)
        finally:
            subprocess.run([SCRIPT, "down", *how], check=True)
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def whole(shards, tmp_path_factory):
    """The run of the jobs below on two ranks, undisturbed and without Slurm; the modules share one."""
    out = tmp_path_factory.getbasetemp() / "undisturbed"
    if not out.exists():
        run(shards, out, *LONG, ranks=2)
    return out


class Job:
    """launch/train.sbatch with a trainer that has a fault in it, or with `accelerate`, a script that takes its place.

    While the file `slow` exists, each step takes `pace` seconds longer: time for something to happen.
    """

    def __init__(self, cluster, folder, *sbatch, data="", pace=0.5, fault=None, accelerate=None, options=(), nodes=2):
        self.cluster, self.out, self.log, self.slow = cluster, folder / "run", folder / "log", folder / "slow"
        self.folder = folder
        self.slow.touch()
        (folder / "pipeline").mkdir()
        shutil.copy(ROOT / "tests" / "helpers" / "faulty.py", folder / "pipeline" / "train.py")
        environment = {"ZORSE_FAULT": fault or f"pace {pace} {self.slow}", "ZORSE_FAULT_ONCE": str(folder / "once")}
        if accelerate:
            (folder / "accelerate").write_text(f"{SHEBANG}\n{accelerate}\n")
            (folder / "accelerate").chmod(0o755)
            environment["BIN"] = str(folder)
        submit = ["sbatch", "--parsable", "--gres=none", f"--nodes={nodes}", "--time=10", f"--output={self.log}"]
        train = [*WATCHED, "--data", data, "--out", self.out, *LONG]
        batch = ROOT / "launch" / "train.sbatch"
        self.id = cluster.run(*submit, *sbatch, batch, *train, *options, cwd=folder, **environment)

    def journal(self):
        """What the starts of the job told the batch script, in turn."""
        return "".join(file.read_text() for file in sorted(self.folder.glob(f"zorse-{self.id}.*.journal"))).splitlines()

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def state(self):
        return re.search(r"JobState=(\w+)", self.cluster.run("scontrol", "show", "job", self.id))[1]

    def starts(self):
        return self.journal().count("launched")

    def wait(self, condition, seconds=150):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.state()}\n{self.journal()}\n{self.text()}"
            time.sleep(0.1)

    def wait_for_pairs(self, pairs):
        """Until the present start of the job has come to so many."""
        present = re.compile(rf"^ *(\d+)/{PAIRS} pairs", re.M)
        self.wait(lambda: any(int(n) >= pairs for n in present.findall(self.text().split(" processes on ")[-1])))

    def wait_for_recovery(self, record_property):
        """Until another start has made a step. To be called right after the fault."""
        fault, before = time.monotonic(), self.starts()
        self.wait(lambda: self.starts() > before)
        self.slow.unlink()
        self.wait_for_pairs(1)
        record_property("recovery_s", round(time.monotonic() - fault, 1))

    def wait_until_over(self, seconds=150):
        self.wait(lambda: self.state() in OVER, seconds)
        return self.state()

    def assert_same_as(self, whole):
        assert self.wait_until_over() == "COMPLETED", self.text()
        assert losses(self.out) == losses(whole)
        assert_close(final(self.out), final(whole), 0)
